"""Tables of results as Markdown, and their place in a file that others write to as well."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Table:
    """One comparison.

    Attributes:
      title: what is compared.
      columns: head of every column.
      rows: cells as text.
      says: what the numbers say, one sentence made from them.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    says: str

    def markdown(self) -> str:
        """The table with its title above and its sentence below."""
        lines = [f"### {self.title}", "", _row(self.columns), _row(["---"] * len(self.columns))]
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {self.title!r} has {len(row)} cells, expected {len(self.columns)}: {row}.")
            lines.append(_row(row))
        return "\n".join([*lines, "", self.says])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def put(text: str, part: str, title: str, body: str) -> str:
    """The text with ``body`` between the markers of ``part``; all else stays as it is.

    Without markers a section with this title is appended.

    Raises:
      ValueError: the markers are incomplete, doubled, or in the wrong order.
    """
    begin, end = f"<!-- begin {part} -->", f"<!-- end {part} -->"
    block = f"{begin}\n\n{body.strip()}\n\n{end}"
    begins, ends = ([found.start() for found in re.finditer(re.escape(mark), text)] for mark in (begin, end))
    if not begins and not ends:
        return f"{text.rstrip()}\n\n## {title}\n\n{block}\n".lstrip()
    if len(begins) != 1 or len(ends) != 1 or ends[0] < begins[0]:
        raise ValueError(
            f"expected one {begin} and one {end} after it: found {len(begins)} and {len(ends)}. Mend the markers by hand."
        )
    return text[: begins[0]] + block + text[ends[0] + len(end) :]


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", text=True)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def seconds(value: float) -> str:
    """A time in a unit that fits it, three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def times(value: float) -> str:
    """A ratio, two or three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}" if value < 10 else f"{value:.3g}"
