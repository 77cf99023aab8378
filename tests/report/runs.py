"""Trials as a ledger returns them, made up: what a page shows of them can be counted by hand."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

from pruneft.experiments.phase import panels
from pruneft.experiments.recovery import RECOVERY
from pruneft.report import document
from pruneft.sensing import theory
from pruneft.status import Status

WRITTEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TRIALS = 8
D = 10
# r -> successes of eight trials at each n / dof; row 3 never succeeds, row 4 always.
RATIOS = (1.0, 1.2, 1.5, 2.0, 3.0)
SUCCESSES = {1: (0, 2, 6, 8, 8), 2: (0, 1, 8, 8, 8), 3: (0, 0, 0, 0, 0), 4: (8, 8, 8, 8, 8)}


def recovery_rows(**axes: Any) -> list[dict[str, Any]]:
    """Rows of recovery; other axes as given."""
    rows = []
    for r, counts in SUCCESSES.items():
        for ratio, good in zip(RATIOS, counts, strict=True):
            cell = RECOVERY.resolve({"d": D, "r": r, "n": round(ratio * theory.dof(D, r)), **axes})
            for seed in range(TRIALS):
                success = seed < good
                report = {
                    "status": int(Status.CONVERGED if success else Status.BUDGET_SPENT),
                    "success": success,
                    "error": 1e-9 if success else 0.5,
                    "steps": 500 + seed,
                    "gap": math.nan if seed else math.inf,
                }
                rows.append({**cell, "seed": seed, **report})
    return rows


def recovery_document(rows: list[dict[str, Any]] | None = None, **settings: Any) -> dict[str, Any]:
    """The document of those rows."""
    rows = recovery_rows() if rows is None else rows
    given = {
        "run": "made-up",
        "manifest": {"device": "cpu"},
        "command": "pruneft sweep",
        "written": WRITTEN,
        "panels": panels,
    }
    return document(RECOVERY, rows, **{**given, **settings})


def find_cell(made: dict[str, Any], **axes: Any) -> dict[str, Any]:
    """The one listed cell with these axis values."""
    (found,) = [c for c in made["cells"] if all(c["cell"].get(name) == value for name, value in axes.items())]
    return found


class Elements(HTMLParser):
    """Every element of a page: (tag, attributes, text directly in it)."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self._open: list[int] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), ""))
        if tag not in ("meta", "link", "br", "img", "input"):
            self._open.append(len(self.found) - 1)

    def handle_endtag(self, tag: str) -> None:
        if self._open:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open:
            tag, attributes, text = self.found[self._open[-1]]
            self.found[self._open[-1]] = (tag, attributes, text + data)

    def all(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        """Attributes and text of every element with this tag."""
        return [(attributes, text) for found, attributes, text in self.found if found == tag]

    def by_id(self, name: str) -> str:
        """The text of the one element with this id."""
        (text,) = [text for _, attributes, text in self.found if attributes.get("id") == name]
        return text
