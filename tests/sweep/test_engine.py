import dataclasses

import jax
import pytest

from pruneft.sweep import cells, engine, make_grid
from pruneft.sweep.engine import choose_processes
from pruneft.sweep.explain import explain
from pruneft.sweep.plan import plan
from tests.sweep.toy import TOY

NAMELESS = dataclasses.replace(TOY, name="nameless")  # no module has it under a name
SHORT = make_grid(TOY, {"a": 2, "b": 5.0}, seeds=2)
LONG = make_grid(TOY, {"a": 2, "b": 5.0}, seeds=5000)  # of 1000 expected steps each


def _plan(grid, experiment=TOY):
    return plan(experiment, [(cell, seed) for cell in cells(TOY, grid) for seed in range(grid.seeds)])


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch):
    monkeypatch.setattr(engine, "cores", lambda: 8)


def test_long_plans_get_a_process_for_each_core_and_short_ones_this_one():
    assert choose_processes(TOY, _plan(LONG), None) == 8
    assert choose_processes(TOY, _plan(SHORT), None) == 1


def test_an_experiment_that_others_cannot_import_stays_in_this_process():
    assert choose_processes(NAMELESS, _plan(LONG, NAMELESS), None) == 1
    with pytest.raises(ValueError, match="other processes must be able to import experiment 'nameless'"):
        choose_processes(NAMELESS, _plan(SHORT, NAMELESS), 2)
    assert choose_processes(NAMELESS, _plan(SHORT, NAMELESS), 1) == 1


def test_an_accelerator_or_several_devices_are_used_from_one_process(monkeypatch):
    with monkeypatch.context() as there:
        there.setattr(jax, "default_backend", lambda: "gpu")
        assert choose_processes(TOY, _plan(LONG), None) == 1
    with monkeypatch.context() as there:
        there.setattr(jax, "local_device_count", lambda: 4)
        assert choose_processes(TOY, _plan(LONG), None) == 1


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "2"])
def test_a_number_of_processes_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match="processes must be a whole number of at least 1"):
        choose_processes(TOY, _plan(SHORT), wrong)


def test_what_is_asked_for_is_what_one_gets():
    assert choose_processes(TOY, _plan(SHORT), 3) == 3


def test_explain_names_the_processes_that_a_sweep_would_take():
    for grid, expected in ((SHORT, 1), (LONG, 8)):
        found = explain(TOY, cells(TOY, grid), grid.seeds, dtype="float32", measure=False)
        assert found.processes == expected
