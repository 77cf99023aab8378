"""The experiment on training by permutation: syncs when they are due, the same start for every method, a figure of both."""

import functools

import jax
import numpy as np
import pytest

from pruneft.experiments import laperm_figure, load
from pruneft.experiments.laperm import LAPERM
from pruneft.experiments.recipes import RECIPES, product
from pruneft.status import Status
from pruneft.sweep import run_trials
from pruneft.trial import Bucket, wrap_key


@pytest.fixture(scope="module", autouse=True)
def _standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # which optax's Adam needs
        yield


@functools.cache
def _rows():
    cells = [
        {"period": 3, "steps": 7},
        {"period": 20, "steps": 40, "removed": 0.5},
        {"period": 100, "steps": 40},
    ]
    trials = [(LAPERM.resolve(cell), seed) for cell in cells for seed in range(2)]
    rows = [row for batch in run_trials(LAPERM, trials, dtype="float32", lanes=6) for row in batch]
    return sorted(
        ({**row.cell, "seed": row.seed, **row.report} for row in rows), key=lambda row: (row["period"], row["seed"])
    )


@pytest.mark.claims
def test_syncs_come_when_they_are_due_and_once_at_the_end():
    assert load("laperm") is LAPERM
    assert [row["syncs"] for row in _rows()] == [3, 3, 2, 2, 1, 1]
    assert all(row["status"] == Status.CONVERGED for row in _rows())


@pytest.mark.claims
def test_weights_change_places_and_zeros_keep_their_number():
    for row in _rows():
        assert 0.2 < row["moved"] <= 1
        # A first layer keeps four fifths, so of 25 856 weights .5 of 17 664 and .2 of 8192 are zero.
        expected = (0.5 * 17664 + 0.2 * 8192) / 25856 if row["removed"] else 0.0
        assert abs(row["zeros"] - expected) < 0.02
        assert (row["zeros"] == 0) == (row["removed"] == 0)


@pytest.mark.claims
def test_training_learns_and_a_sync_takes_some_of_it_back():
    later = [row for row in _rows() if row["steps"] == 40]
    assert all(row["accuracy_before"] > 0.6 for row in later)
    assert all(row["accuracy"] > 0.2 for row in later)
    assert np.mean([row["accuracy_before"] - row["accuracy"] for row in later]) > 0


@pytest.mark.claims
def test_methods_of_one_seed_begin_alike():
    starts = {}
    for method in ("adam", "laperm"):
        cell = LAPERM.resolve({"method": method})
        static = tuple((axis.name, cell[axis.name]) for axis in LAPERM.axes if axis.type is str)
        draw = LAPERM.trial(Bucket(sizes=(), static=static)).draw
        values = {name: np.float32(value) for name, value in LAPERM.inputs(cell).items()}
        starts[method] = jax.jit(draw)(wrap_key(LAPERM.key_data(cell, 3)), values)
    for name in ("train", "test", "start", "words"):
        for one, other in zip(*(jax.tree.leaves(getattr(task, name)) for task in starts.values()), strict=True):
            np.testing.assert_array_equal(one, other)


def _invented(**changes):
    """Rows as a run would hold them, with accuracies that name their cell."""
    cells = (
        *product(method="laperm", period=(10, 100), lr=(1e-3, 3e-3), removed=0.0),
        *product(method="laperm", period=100, lr=(1e-3, 3e-3), removed=(0.3, 0.7)),
        *product(method="adam", lr=(1e-3, 3e-3), removed=(0.0, 0.3, 0.7)),
    )
    rows = [LAPERM.resolve({**cell, **changes}) for cell in cells for _ in range(2)]
    return [
        {**row, "accuracy": 0.99 - 0.1 * row["removed"] - 0.01 * (row["period"] == 10) - 0.001 * (place % 2)}
        for place, row in enumerate(rows)
    ]


def test_the_figure_shows_errors_over_the_period_and_over_the_zeros():
    figure = laperm_figure.draw([*_invented(), *_invented(model="cnn")])
    axes = figure.axes
    assert len(axes) == 4
    over_period, over_zeros = axes[:2]
    first = over_period.get_lines()[0]
    assert first.get_label() == "LaPerm, rate 0.001"
    np.testing.assert_allclose(first.get_xdata(), [10, 100])
    np.testing.assert_allclose(first.get_ydata(), [2.05, 1.05])
    labels = [line.get_label() for line in over_zeros.get_lines()]
    assert labels == [f"{name}, rate {rate}" for rate in ("0.001", "0.003") for name in ("LaPerm", "Adam")]
    np.testing.assert_allclose(over_zeros.get_lines()[0].get_xdata(), [0.0, 0.3, 0.7])


def test_a_figure_of_nothing_or_of_two_lengths_is_refused():
    with pytest.raises(ValueError, match="no finished trial"):
        laperm_figure.draw([])
    with pytest.raises(ValueError, match="steps = 100, 1500 of model mlp"):
        laperm_figure.draw([*_invented(), *_invented(steps=100)])


def test_every_cell_of_the_recipe_makes_sense():
    recipe = RECIPES["laperm"]
    for cells in (recipe.cells, recipe.full):
        resolved = [LAPERM.resolve(cell) for cell in cells]
        assert {row["method"] for row in resolved} == {"adam", "laperm"}
        assert laperm_figure.draw([{**row, "accuracy": 0.9} for row in resolved]).axes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"period": 0}, "period must be a whole number of at least 1: got 0"),
        ({"steps": 1.5}, "steps must be a whole number of at least 1: got 1.5"),
        ({"lr": 0.0}, "lr .learning rate. must be positive"),
        ({"removed": 1.0}, "at least 0 and below 1: got 1.0"),
        ({"method": "sgd"}, "method must be one of adam, laperm: got 'sgd'"),
        ({"width": 3}, "unknown axis 'width'"),
    ],
)
def test_cells_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        LAPERM.resolve(change)


def test_adam_alone_has_no_period():
    assert LAPERM.resolve({"method": "adam", "period": 20})["period"] == 0
