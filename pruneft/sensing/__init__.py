"""Matrix sensing: y_i = <A_i, U* U*ᴴ> + noise, with a factor that has far more columns than the unknown rank."""

from pruneft.sensing import finetune, quadratic, theory, tomography
from pruneft.sensing.certificate import Certificate, Verdict
from pruneft.sensing.certify import certify
from pruneft.sensing.check import check_adjoint
from pruneft.sensing.column_pruning import column_pruning
from pruneft.sensing.completion import Completion, complete
from pruneft.sensing.draw import draw_instance, draw_truth
from pruneft.sensing.families import FAMILIES, family_of
from pruneft.sensing.families import draw as draw_family
from pruneft.sensing.family import Family, Instance
from pruneft.sensing.finetune import nesterov, tangent_nesterov
from pruneft.sensing.identifiability import Identifiability, identifiability
from pruneft.sensing.localisation import Localisation, align, localise
from pruneft.sensing.loss import mean_squared_error, objective
from pruneft.sensing.operator import Gram, Operator, PackedOperator
from pruneft.sensing.operators.distances import Distances
from pruneft.sensing.operators.entries import Entries, entries_of
from pruneft.sensing.operators.functions import FunctionOperator
from pruneft.sensing.operators.pauli import Pauli
from pruneft.sensing.operators.rank_one import RankOne
from pruneft.sensing.packing import packed_size, smat, svec, unpacked_size
from pruneft.sensing.problem import AsymmetricMeasurements, Problem
from pruneft.sensing.rank_path import rank_path
from pruneft.sensing.recipe import PathRecipe, PruneRecipe
from pruneft.sensing.recover import recover
from pruneft.sensing.result import Recovery
from pruneft.sensing.second_order import Curvature, gauge_basis, least_curvature
from pruneft.sensing.sharded import draw_split
