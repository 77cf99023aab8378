"""The claim that a trial's numbers do not depend on what runs beside it, on the real experiment."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.experiments.recovery import RECOVERY
from pruneft.sweep import cells, make_grid
from pruneft.trial import Bucket, Experiment, segment, wrap_key
from tests.claims.trials import refuted
from tests.sweep.running import alone, changed, programs_of, reports

pytestmark = pytest.mark.claims

SEEDS = 10
GRID = {"d": 8, "r": (1, 2, 3), "n_per_dof": (1.1, 1.3, 1.6, 2.2)}  # at the transition and above it
TRIALS = [(cell, seed) for cell in cells(RECOVERY, make_grid(RECOVERY, GRID, SEEDS)) for seed in range(SEEDS)]


def _bucket(n):
    return Bucket(sizes=(("d", 8), ("k", 8), ("n", n)), static=(("method", "prune"),))


def _checksum(numbers):
    """A sum of bits, which no order of summation and no padding with zeros changes."""
    return jnp.sum(jax.lax.bitcast_convert_type(numbers, jnp.uint32), dtype=jnp.uint32)


@functools.cache
def _trial(bucket, by_shape):
    trial = RECOVERY.trial(bucket)

    def draw(key, inputs):
        # The twin's draws depend on the shape that they are made in.
        return trial.draw(jax.random.fold_in(key, bucket["n"]) if by_shape else key, inputs)

    def report(lane, state):
        drawn = {"rows": _checksum(lane.operator.rows), "starts": _checksum(lane.starts)}
        return {**trial.report(lane, state), **drawn, "y": lane.y[0] * lane.unit, "m": lane.truth.matrix[0, 0]}

    return changed(trial, draw=draw, report=report)


def _experiment(by_shape=False):
    return Experiment(**{**RECOVERY.__dict__, "trial": functools.partial(_trial, by_shape=by_shape)})


def _in_lanes(n, lanes, *, backwards=False, by_shape=False):
    experiment, trials = _experiment(by_shape), TRIALS[::-1] if backwards else TRIALS
    programs = _programs(n, lanes, by_shape)
    found, _ = reports(programs, experiment, trials, segment_steps=None)
    return found[::-1] if backwards else found


@functools.cache
def _programs(n, lanes, by_shape):
    return programs_of(_experiment(by_shape), TRIALS, lanes, bucket=_bucket(n), dtype="float64")


@pytest.fixture(scope="module")
def runs():
    """Reports of 120 trials: 8 lanes, and the same in another order, with other lanes, another padding, and alone."""
    return {
        "8 lanes": _in_lanes(64, 8),
        "backwards": _in_lanes(64, 8, backwards=True),
        "16 lanes": _in_lanes(64, 16),
        "4 lanes padded to 128": _in_lanes(128, 4),
        "alone": alone(_experiment(), TRIALS, _bucket(64), "float64"),
    }


def _pairs(runs):
    """Each trial of the first run beside itself in each of the others."""
    first, *others = runs.values()
    return [pair for other in others for pair in zip(first, other, strict=True)]


def _same(pairs, *names):
    return sum(all(a[name] == b[name] for name in names) for a, b in pairs)


def test_the_trials_are_not_all_alike(runs):
    # A grid on which all succeed, or none, would show little.
    assert len(TRIALS) == 120
    assert 0.5 < np.mean([report["success"] for report in runs["8 lanes"]]) < 1
    assert len({report["status"] for report in runs["8 lanes"]}) > 1


def test_draws_are_the_same_bits_and_the_data_agree(runs):
    pairs = _pairs(runs)
    assert _same(pairs, "rows", "starts") == len(pairs) == 4 * 120
    for name in ("y", "m"):
        np.testing.assert_allclose(*np.array([(a[name], b[name]) for a, b in pairs]).T, rtol=1e-6, atol=1e-9)
    assert len({report["rows"] for report in runs["8 lanes"]}) == 120


def test_another_order_of_the_queue_gives_the_same_bits(runs):
    assert repr(runs["8 lanes"]) == repr(runs["backwards"])


def test_status_and_rank_agree_in_at_least_99_percent(runs):
    # Would break: draws by shape, lanes that step after they have finished, turns or stages in another order.
    pairs = _pairs(runs)
    same = _same(pairs, "status", "rank")
    assert not refuted(same, len(pairs), 0.99), f"{same} of {len(pairs)}"


def test_with_draws_that_depend_on_the_padding_they_do_not(runs):
    """The broken twin: its instances have the same law, but are others."""
    pairs = list(zip(runs["8 lanes"], _in_lanes(128, 4, by_shape=True), strict=True))
    assert _same(pairs, "rows", "starts") == 0
    assert refuted(_same(pairs, "status", "rank"), len(pairs), 0.99)


def test_data_and_the_first_hundred_steps_agree_in_single_precision():
    # Sixteen side by side against one by one at twice the padding: y and M* to 1e-6, the state within 1e-3.
    chosen = TRIALS[:: len(TRIALS) // 16][:16]
    words = np.stack([RECOVERY.key_data(cell, seed) for cell, seed in chosen])
    inputs = [{name: np.float32(value) for name, value in RECOVERY.inputs(cell).items()} for cell, _ in chosen]

    def begin(trial, word, values):
        lane = trial.draw(wrap_key(word), values)
        state = segment(trial, lane, trial.init(lane), steps=100)
        return lane.y * lane.unit, lane.truth.matrix, state.factor, state.steps

    narrow = jax.jit(jax.vmap(functools.partial(begin, RECOVERY.trial(_bucket(64)))))
    wide = jax.jit(functools.partial(begin, RECOVERY.trial(_bucket(128))))
    together = narrow(words, {name: np.stack([one[name] for one in inputs]) for name in inputs[0]})
    for place, (word, values) in enumerate(zip(words, inputs, strict=True)):
        y, truth, factor, steps = (np.asarray(part) for part in wide(word, values))
        assert steps == together[3][place] == 100
        y_there, truth_there, factor_there = (np.asarray(part[place]) for part in together[:3])
        assert not y[64:].any()
        for mine, theirs, bar in ((y[:64], y_there, 1e-6), (truth, truth_there, 1e-6), (factor, factor_there, 1e-3)):
            assert np.linalg.norm(mine - theirs) <= bar * np.linalg.norm(theirs)
