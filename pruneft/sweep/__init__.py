"""Vectorised experiments: grid, plan, lanes, ledger, summary. Knows no subject."""

from pruneft.sweep.adaptive_sweep import Adapted, Transition, adaptive_sweep
from pruneft.sweep.driver import Swept, run_trials, sweep
from pruneft.sweep.grid import Grid, GridError, GridFile, cells, load_toml, make_grid, parse_values
from pruneft.sweep.ledger import Ledger, LedgerError, Row
from pruneft.sweep.runs import RunInfo, check_name, find_ledger, list_runs, run_path
from pruneft.sweep.summary import CellSummary, summarise, wilson
