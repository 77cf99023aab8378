"""Figures from plain arrays: every function takes ``ax=None`` and returns what it drew. They need matplotlib."""

from pruneft.plot._style import LINE_STYLES, PALETTE, new_figure, save
from pruneft.plot.columns import BeforeAfter, ColumnNorms, before_after, column_norms
from pruneft.plot.convergence import Convergence, convergence
from pruneft.plot.curves import TrainingCurves, training_curves
from pruneft.plot.phase import Curve, PhaseDiagram, PhasePanels, phase_diagram, phase_panels
from pruneft.plot.risk import RiskCurve, risk_curve
from pruneft.plot.trade_off import TradeOffDrawing, trade_off
