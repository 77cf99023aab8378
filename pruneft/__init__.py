"""Over-parameterise, regularise, prune, fine-tune: pure JAX functions, and vectorised experiments on them."""

from importlib import metadata as _metadata

from pruneft import optim, penalty, prune, sensing, status
from pruneft.pipeline import Anneal, FirstOrder, Method, Pipeline
from pruneft.sensing import Certificate, PathRecipe, Problem, PruneRecipe, Recovery, Verdict, certify, recover
from pruneft.status import Status
from pruneft.trial import Axis, Bucket, Experiment, Stage, Trial, run

try:
    __version__ = _metadata.version("pruneft")
except _metadata.PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
