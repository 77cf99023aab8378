import json

import jax
import pytest

from pruneft.sweep.local import TrialError
from pruneft.sweep.worker import find_place, load_place, ping, spec_of, work
from pruneft.trial import canonical_json
from tests.sweep.gang import SETTINGS, TOY_PLACE, TROUBLES_PLACE, alone, tasks_of, trials_of
from tests.sweep.toy import TOY, toy
from tests.sweep.troubles import GOOD, RAISES


def _spec(trials, place=TOY_PLACE):
    (task,) = tasks_of(trials)
    return spec_of(place, task.bucket, task.trials, SETTINGS)


def test_a_task_that_went_as_text_gives_the_rows_of_one_that_did_not():
    trials = trials_of((GOOD, 0.3), seeds=3)
    answer = json.loads(work(_spec(trials)))
    found = {(cell["gain"], cell["a"], seed): report for cell, seed, report in answer["rows"]}
    assert found == alone(trials)
    assert {canonical_json(cell) for cell, _, _ in answer["rows"]} == {canonical_json(cell) for cell, _ in trials}
    assert answer["usage"][0] == sum(report["steps"] for report in found.values())


def test_the_mode_of_64_bits_goes_with_the_task():
    assert json.loads(_spec(trials_of((GOOD,), 1)))["x64"] is True
    with jax.enable_x64(False):
        assert json.loads(_spec(trials_of((GOOD,), 1)))["x64"] is False


def test_an_error_of_a_trial_says_which_trials_fail():
    with pytest.raises(TrialError, match=r"(?s)trials of troubles with n=.* fail.*this trial is of no use"):
        work(_spec(trials_of((RAISES,), 1), TROUBLES_PLACE))


def test_an_experiment_is_found_under_its_name_and_one_without_a_name_is_not():
    assert find_place(TOY) == TOY_PLACE
    assert load_place(TOY_PLACE) is TOY
    assert find_place(toy(cap=7)) is None


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("no.such.module:TOY", "cannot import 'no.such.module:TOY'"),
        ("tests.sweep.toy:NOTHING", "cannot import 'tests.sweep.toy:NOTHING'"),
        ("tests.sweep.toy:AXES", "tests.sweep.toy:AXES is a tuple: expected a pruneft.Experiment"),
    ],
)
def test_a_place_that_holds_no_experiment_is_refused(place, words):
    with pytest.raises(ValueError, match=words):
        load_place(place)


def test_a_worker_that_is_well_names_its_platform():
    assert ping() == jax.devices()[0].platform
