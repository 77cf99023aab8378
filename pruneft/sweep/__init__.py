"""Vectorised experiments: grid, plan, lanes, ledger, summary. Knows no subject."""

from pruneft.sweep.adaptive_sweep import Adapted, Transition, adaptive_sweep
from pruneft.sweep.driver import Swept, run_trials, sweep
from pruneft.sweep.export import FORMATS, Exported, ExportError, export_csv, export_netcdf, export_parquet, export_zarr
from pruneft.sweep.formula import Formula
from pruneft.sweep.grid import Grid, cells, make_grid
from pruneft.sweep.gridfile import GridFile, load_toml
from pruneft.sweep.ledger import Ledger, LedgerError, Row
from pruneft.sweep.plan import Plan, plan
from pruneft.sweep.pool import close_workers
from pruneft.sweep.progress import Progress
from pruneft.sweep.runs import RunInfo, check_name, find_ledger, holder, list_runs, run_path
from pruneft.sweep.summary import CellSummary, summarise, summary, wilson
from pruneft.sweep.values import GridError, parse_values
