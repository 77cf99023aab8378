"""Group pruning of any JAX model: coupled units found by tracing, chosen by a criterion, and really removed."""

from pruneft.network.criteria import CRITERIA, scores
from pruneft.network.discover import groups
from pruneft.network.families import Families, Family, Member, Whole
from pruneft.network.metadata import linen, nnx, refreshed
from pruneft.network.obs import obs_update
from pruneft.network.patterns import Pattern, families_of
from pruneft.network.regularise import prox_groups, proximal_groups, smoothed_group_penalty
from pruneft.network.remove import Removal, Report, remove
from pruneft.network.select import counts, select, within
from pruneft.network.surgery import zeroed
from pruneft.network.threshold import gradual_threshold, prune_in_rounds
