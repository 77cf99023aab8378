import os
import signal

import pytest

from pruneft.sweep import make_grid, sweep
from tests.sweep.gang import (
    SETTINGS,
    TROUBLES_PLACE,
    Kept,
    agree,
    alone,
    approximately,
    never,
    stored,
    tasks_of,
    trials_of,
)
from tests.sweep.toy import TOY
from tests.sweep.troubles import GOOD, SLOW

distributed = pytest.importorskip("distributed", reason="Dask is an extra: pip install 'pruneft[dask]'")

from pruneft.sweep.executors import run_on_executor  # noqa: E402

# Dask's own: ports in use, sockets that its processes leave to the garbage collector, and calls it deprecates itself.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(distributed|dask|tornado)"),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            local_directory=str(tmp_path_factory.mktemp("dask")),
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.mark.claims
def test_a_sweep_on_dask_is_that_of_one_process(client, tmp_path):
    grid = make_grid(TOY, {"a": (2, 4), "b": 5.0}, seeds=6)
    result = sweep(TOY, grid, tmp_path / "dask", dtype="float32", lanes=4, executor=client.get_executor())
    assert (result.planned, result.new) == (12, 12)
    sweep(TOY, grid, tmp_path / "alone", dtype="float32", lanes=4, processes=1)
    assert stored(tmp_path / "dask") == approximately(stored(tmp_path / "alone"))


@pytest.mark.claims
def test_a_dask_worker_killed_in_mid_run_costs_no_row_and_doubles_none(client):
    trials = trials_of((GOOD, SLOW), seeds=40)
    killed = []

    def kill(kept):
        if len(kept.rows) == 5:
            victim = next(iter(client.run(os.getpid).values()))
            killed.append(victim)
            os.kill(victim, signal.SIGKILL)

    kept = Kept(kill)
    run_on_executor(client.get_executor(), TROUBLES_PLACE, tasks_of(trials), SETTINGS, kept, never)
    assert len(killed) == 1
    assert agree(kept.reports(), alone(trials))
