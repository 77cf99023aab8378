import functools

import jax
import numpy as np
import pytest

from pruneft.experiments import load
from pruneft.experiments.lambda_beta import FIXED, LAMBDA_BETA, line, weakest_eigenvalue
from pruneft.experiments.lambda_beta_map import draw, panels
from pruneft.plot import save
from pruneft.sensing import theory
from pruneft.sweep.local import Settings, run_tasks
from pruneft.sweep.plan import Task
from pruneft.trial import Bucket

SMALL = {"d": 5, "k": 2, "r": 1, "n_per_dof": 4.0}  # two columns: one program for fine-tuning, and still one to prune


@pytest.fixture(autouse=True)
def _lenient():
    # optax multiplies Python floats with int32 counters, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_the_experiment_is_known_by_its_name_and_meets_the_instances_of_recovery():
    assert load("lambda-beta") is LAMBDA_BETA
    cell = LAMBDA_BETA.resolve({**SMALL, "lam": 0.1, "beta": 0.01})
    recovery = load("recovery")
    np.testing.assert_array_equal(LAMBDA_BETA.key_data(cell, 3), recovery.key_data(recovery.resolve(SMALL), 3))


def test_weight_and_smoothing_stay_where_they_are_told():
    inputs = LAMBDA_BETA.inputs(LAMBDA_BETA.resolve({**SMALL, "lam": 0.02, "beta": 0.003}))
    assert (inputs["lam_start"], inputs["lam_end"]) == (0.02, 0.02)
    assert (inputs["beta_start"], inputs["beta_end"]) == (0.003, 0.003)


@pytest.mark.parametrize(("r", "kappa", "sigma"), [(1, 1.0, 0.0), (2, 1.0, 0.0), (3, 8.0, 0.0), (3, 8.0, 0.5)])
def test_the_weakest_eigenvalue_is_that_of_a_drawn_truth_in_units_of_the_data(r, kappa, sigma):
    from pruneft.sensing import draw_truth

    factor = np.asarray(draw_truth(jax.random.key(0), d=5, r=r, kappa=kappa, scale=4.0))
    expected = np.sort(np.linalg.eigvalsh(factor @ factor.T))[-r] / np.hypot(4.0, sigma)
    cell = {"r": r, "kappa": kappa, "sigma": sigma, "scale": 4.0}
    np.testing.assert_allclose(weakest_eigenvalue(cell), expected, rtol=1e-4)


def test_the_line_is_where_the_growth_threshold_meets_the_weakest_eigenvalue():
    cell = {"r": 2, "kappa": 3.0, "sigma": 0.0, "scale": 1.0}
    for beta, lam in line(cell, [1e-4, 1e-2, 1.0]).items():
        np.testing.assert_allclose(theory.growth_threshold(lam, beta), weakest_eigenvalue(cell), rtol=1e-12)


# Two smoothings, weights on both sides of the line and one far below it, on problems of d = 5, r = 1.
CELLS = [
    LAMBDA_BETA.resolve({**SMALL, "beta": beta, "lam": share * 2 * beta**0.5})
    for beta in (1e-3, 1e-1)
    for share in (0.5, 2.0)
]


@functools.cache
def _run():
    """The cells with two seeds each."""
    bucket = Bucket(sizes=tuple(LAMBDA_BETA.sizes(CELLS[0]).items()), static=(("method", "prune"),))
    task = Task(bucket=bucket, trials=tuple((cell, seed) for cell in CELLS for seed in range(2)))
    rows = []
    run_tasks(LAMBDA_BETA, [task], Settings(lanes=8), lambda found, _: rows.extend(found), lambda: False)
    return [{**row.cell, "seed": row.seed, **row.report} for row in rows]


def _made():
    """What a run that goes by the line would report, as far as a map looks at it."""
    below = [cell["lam"] < 2 * cell["beta"] ** 0.5 for cell in CELLS]
    return [
        {**cell, "seed": seed, "columns_exact": good, "success": good}
        for cell, good in zip(CELLS, below, strict=True)
        for seed in range(2)
    ]


def _figures(rows):
    return [
        (panel.title, panel.row, panel.x, panel.curves, [(cell.successes, cell.trials) for cell in panel.cells])
        for panel in panels(rows)
    ]


@pytest.mark.claims
def test_no_column_grows_above_the_line_and_exactly_r_do_below_it():
    for row in _run():
        share = row["lam"] / (2 * row["beta"] ** 0.5)
        assert row["steps"] == FIXED.attempts[0]
        assert bool(row["columns_exact"]) == (share < 1), (share, row["columns"])
        assert bool(row["success"]) == (share < 1)
    assert _figures(_run()) == _figures(_made())  # so the maps of made rows below are those of a run


def test_the_map_shows_both_rates_and_the_line(tmp_path):
    figure = draw(_made())
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == ["r columns left", "recovered"]
    save(figure, tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 10_000
    assert [panel.title for panel in panels(_made())] == titles


def test_settings_get_panels_of_their_own_with_lines_of_their_own():
    rows = [{**row, "kappa": kappa, "r": 2} for row in _made() for kappa in (1.0, 4.0)]
    made = panels(rows)
    assert [panel.title for panel in made[::2]] == [f"r columns left, kappa = {kappa}" for kappa in (1, 4)]
    equal, skewed = (panel.curves[0].values[0.1] for panel in made[::2])
    np.testing.assert_allclose(skewed / equal, 0.25 / (1 + 1 / 16) ** 0.5 * 2**0.5, rtol=1e-12)


def test_cells_without_a_weight_are_refused_with_what_to_do():
    with pytest.raises(ValueError, match="sweep with --lam and --beta"):
        draw([{**_made()[0], "lam": None}])
    with pytest.raises(ValueError, match="no finished trial"):
        draw([])
