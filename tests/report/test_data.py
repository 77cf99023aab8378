import dataclasses
import json
from collections import Counter

import pytest

from pruneft.experiments import phase
from pruneft.plot import Curve
from pruneft.report import Panel, Transition, document, generic_panels
from pruneft.report._coarse import pool
from pruneft.report.panel import summarise_all
from pruneft.sensing import theory
from pruneft.status import Status, message
from pruneft.sweep import wilson
from tests.report.runs import RATIOS, SUCCESSES, TRIALS, WRITTEN, D, find_cell, recovery_document, recovery_rows
from tests.sweep.toy import TOY


def _toy_rows(cells, trials=4):
    return [
        {"a": 4, "b": 5, "gain": 0.5, "mode": "plain", **cell, "seed": s, "status": 1, "success": s > 0, "steps": 9}
        for cell in cells
        for s in range(trials)
    ]


def _toy_document(rows, **settings):
    given = {"run": "t", "manifest": {}, "command": "", "written": WRITTEN}
    return document(TOY, rows, **{**given, **settings})


def test_counts_intervals_and_medians_of_every_cell_are_there():
    made = recovery_document()
    assert (made["trials"], made["cell_count"], made["listed"]) == (160, 20, 20)
    assert made["successes"] == sum(map(sum, SUCCESSES.values()))
    assert made["varying"] == ["r", "n"]
    for r, counts in SUCCESSES.items():
        for ratio, good in zip(RATIOS, counts, strict=True):
            cell = find_cell(made, r=r, n=round(ratio * theory.dof(D, r)))
            assert (cell["successes"], cell["trials"], cell["rate"]) == (good, TRIALS, good / TRIALS)
            assert (cell["low"], cell["high"]) == wilson(good, TRIALS)
            assert cell["medians"]["steps"] == 503.5
            names = {"CONVERGED": good, "BUDGET_SPENT": TRIALS - good}
            assert cell["statuses"] == {name: count for name, count in names.items() if count}


def test_what_is_not_finite_is_null_and_all_of_it_is_json():
    made = recovery_document(manifest={"bad": float("nan"), "worse": [float("-inf")]})
    assert find_cell(made, r=1, n=10)["medians"]["gap"] is None
    assert made["manifest"] == {"bad": None, "worse": [None]}
    assert json.loads(json.dumps(made, allow_nan=False)) == made


def test_the_panel_of_recovery_holds_every_cell_once_and_the_theory():
    (panel,) = recovery_document()["panels"]
    assert panel["rows"] == [1, 2, 3, 4]
    assert len({point["cell"] for point in panel["points"]}) == len(panel["points"]) == 20
    cells = recovery_document()["cells"]
    for point in panel["points"]:
        cell = cells[point["cell"]]["cell"]
        assert panel["rows"][point["row"]] == cell["r"]
        assert point["x"] == pytest.approx(cell["n"] / theory.dof(D, cell["r"]))
        assert point["left"] < point["x"] < point["right"]
    curves = {curve["label"]: curve["values"] for curve in panel["curves"]}
    assert curves["n = dof"] == [1, 1, 1, 1]
    assert curves["PSD feasibility"] == [theory.psd_feasibility(D, r) / theory.dof(D, r) for r in (1, 2, 3, 4)]
    assert curves["trace minimisation"] == [theory.trace_minimisation(D, r) / theory.dof(D, r) for r in (1, 2, 3, 4)]


def test_a_row_has_its_transition_or_says_why_not():
    one, two, never, always = recovery_document()["panels"][0]["transitions"]
    assert 1.2 < one["low"] < one["point"] < one["high"] < 1.7
    assert 1.2 < two["low"] < two["point"] < two["high"] < 1.5
    assert never == {"point": None, "low": None, "high": None, "note": "success was never seen"}
    assert always["note"] == "success was always seen"


def test_the_estimate_may_be_another():
    def estimate(x, successes, trials, *, scale):
        return Transition(sum(successes), len(x), sum(trials), scale)

    made = recovery_document(estimate=estimate, method="Another.")
    (panel,) = made["panels"]
    assert made["method"] == "Another."
    assert panel["transitions"][0] == {"point": 24, "low": 5, "high": 40, "note": panel["scale"]}


def test_statuses_are_counted_and_explained():
    rows = [*recovery_rows(), {**recovery_rows()[0], "seed": 99, "status": 77}]
    statuses = {s["code"]: s for s in recovery_document(rows)["statuses"]}
    counts = Counter(row["status"] for row in rows)
    assert {code: s["trials"] for code, s in statuses.items()} == counts
    assert statuses[Status.BUDGET_SPENT]["message"] == message(Status.BUDGET_SPENT)
    assert (statuses[77]["name"], "not known" in statuses[77]["message"]) == ("STATUS_77", True)


def test_every_setting_of_the_other_axes_has_a_panel_and_no_more_than_twelve():
    both = recovery_rows() + recovery_rows(method="path")
    assert [panel["title"] for panel in recovery_document(both)["panels"]] == ["path, d = 10", "prune, d = 10"]
    many = [row for kappa in range(1, 15) for row in recovery_rows(kappa=float(kappa))]
    made = recovery_document(many)
    assert len(made["panels"]) == 12
    assert made["notes"] == ["14 settings in this run: only the first 12 are drawn."]
    assert made["listed"] == 14 * 20


def test_the_longest_numeric_axis_is_x_the_next_the_rows_and_the_rest_are_settings():
    rows = _toy_rows([{"a": a, "b": b, "mode": m} for a in (2, 4) for b in (5, 10, 20) for m in ("plain", "squared")])
    _, summaries = summarise_all(TOY, rows)
    panels = generic_panels(TOY, summaries)
    assert [(p.title, p.row_label, p.x_label) for p in panels] == [
        ("mode = plain", "a", "b"),
        ("mode = squared", "a", "b"),
    ]
    assert [(row, x, c.cell["b"]) for row, x, c in zip(panels[0].row, panels[0].x, panels[0].cells)] == [
        (a, b, b) for a in (2, 4) for b in (5, 10, 20)
    ]


def test_one_numeric_axis_is_a_curve_and_a_text_axis_makes_its_rows():
    (curve,) = _toy_document(_toy_rows([{"b": b} for b in (5, 10, 20)]))["panels"]
    assert (curve["rows"], curve["row_label"], curve["x_label"]) == ([""], "", "b")
    (both,) = _toy_document(_toy_rows([{"b": b, "mode": m} for b in (5, 10) for m in ("squared", "plain")]))["panels"]
    assert (both["rows"], both["row_label"]) == (["plain", "squared"], "mode")


def test_without_a_numeric_axis_there_is_only_the_table():
    made = _toy_document(_toy_rows([{"mode": m} for m in ("plain", "squared")]))
    assert (made["panels"], made["listed"], made["varying"]) == ([], 2, ["mode"])
    assert _toy_document(_toy_rows([{}]))["panels"] == []


def test_an_axis_left_to_the_experiment_makes_settings_and_not_a_direction():
    rows = _toy_rows([{"b": b, "gain": g} for b in (5, 10) for g in (None, 0.5)])
    made = _toy_document(rows)
    assert [panel["title"] for panel in made["panels"]] == ["gain = 0.5", "gain = default"]


def test_many_cells_are_pooled_and_no_trial_is_lost():
    rows = _toy_rows([{"a": a, "b": b} for a in range(1, 61) for b in range(1, 81)], trials=2)
    made = _toy_document(rows, most_cells=400)
    (panel,) = made["panels"]
    assert len(panel["points"]) <= 400
    assert made["listed"] == 0
    assert len(made["cells"]) == len(panel["points"])
    assert sum(cell["trials"] for cell in made["cells"]) == len(rows) == made["trials"]
    assert sum(cell["successes"] for cell in made["cells"]) == made["successes"] == 4800
    assert sum(cell["pooled"] for cell in made["cells"]) == made["cell_count"] == 4800
    assert sum(cell["statuses"]["CONVERGED"] for cell in made["cells"]) == len(rows)
    assert any("4800 cells are drawn as" in note for note in made["notes"])
    assert any("the table of cells is left out above 400" in note for note in made["notes"])
    assert panel["row_names"][0] == "1 to 3"


def test_pooling_reads_the_curves_at_the_rows_it_keeps():
    _, summaries = summarise_all(TOY, _toy_rows([{"a": a, "b": b} for a in range(1, 11) for b in range(1, 11)]))
    (panel,) = generic_panels(TOY, summaries)
    panel = dataclasses.replace(panel, curves=[Curve("line", {a: 10.0 * a for a in range(1, 11)})])
    pooled = pool(panel, 25)
    assert pooled.panel.curves[0].values == {row: 10.0 * row for row in pooled.row_names}
    assert len(pooled.row_names) == 5
    assert pool(panel, 100).panel is panel


def test_panels_of_recovery_are_those_of_its_figure():
    found = phase.panels(recovery_rows())
    assert [panel.title for panel in found] == ["prune, d = 10"]
    assert phase.draw(recovery_rows()).axes[0].get_title() == "prune, d = 10"


def test_no_rows_no_cells_and_no_success_are_refused():
    with pytest.raises(ValueError, match="run 't' holds no finished trial yet"):
        _toy_document([])
    with pytest.raises(ValueError, match="equally long and not empty, got 0, 0 and 0"):
        Panel(title="x", row=[], x=[], cells=[], row_label="", x_label="")
    rows = _toy_rows([{"b": 5}])
    for row in rows:
        del row["success"]
    with pytest.raises(ValueError, match="the trials have no 'success'"):
        _toy_document(rows)
