"""Training at the edge of stability: sharpness, what gradient descent does there, and what predicts it."""

from pruneft.dynamics import constrained, deep_linear, predicted, problems, sgd
from pruneft.dynamics.central_flow import CentralFlow, RMSProp, central_flow
from pruneft.dynamics.complementarity import Solution, complementarity
from pruneft.dynamics.constrained import Domain, Point
from pruneft.dynamics.curvature import Traces, flatten, hessian_product, midpoint, sharpness_gradient, traces
from pruneft.dynamics.edge import Agreement, Onset, Track, agreement, onset, track
from pruneft.dynamics.monitor import History, Monitor, monitor
from pruneft.dynamics.orbit import Orbit, orbit
from pruneft.dynamics.problems import Problem, digits, sensing
from pruneft.dynamics.sharpness import Sharpness, sharpness
