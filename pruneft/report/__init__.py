"""One self-contained HTML page about a run: phase diagrams, transitions, statuses, manifest. Needs no other package."""

from pruneft.report.data import document
from pruneft.report.page import render, write
from pruneft.report.panel import Panel, generic_panels
from pruneft.report.transition import Transition, transition
