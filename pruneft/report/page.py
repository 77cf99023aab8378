"""The page: a document's numbers, a style sheet and a script in one file that loads nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pruneft.plot.phase import _CURVE_STYLES as CURVE_STYLES
from pruneft.report._colours import CIVIDIS, ON_DARK

_SCRIPTS = ("chart.js", "diagram.js", "curves.js", "table.js", "main.js")
# Of the curves' lines, in pixels; matplotlib counts dashes in line widths.
_LINE = 1.75


def render(document: Mapping[str, Any]) -> str:
    """The HTML text of a document from `pruneft.report.document`.

    Whatever comes from the ledger is escaped or stands in a JSON block that cannot close itself; the page's policy lets
    the browser run this script and no other, and load nothing.
    """
    style = _asset("page.css") + _colours()
    script = f'"use strict";\n{{\nconst RAMP = {json.dumps(CIVIDIS)};\n' + "\n".join(map(_asset, _SCRIPTS)) + "}\n"
    title = f"{document['run']} ({document['experiment']})"
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {
        "TITLE": html.escape(title),
        "POLICY": policy,
        "STYLE": style,
        "HEADER": _header(document),
        "STATUSES": _statuses(document),
        "COMMAND": html.escape(str(document["command"])),
        "MANIFEST": _manifest(document["manifest"]),
        "DATA": json_block(document),
        "SCRIPT": script,
    }
    page = _asset("page.html")
    # One pass over the template, so that nothing from the ledger is taken for one of its places.
    pieces = page.split("%%")
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def write(text: str, path: str | Path) -> Path:
    """Write the page whole or not at all, over an older one; returns the path.

    Raises:
      OSError: the file cannot be written; what stood there before stands there still.
    """
    target = Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(text.encode("utf-8", errors="replace"))  # a lone surrogate has no bytes
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OSError(
            f"could not write the report {target}: {error.strerror or error}. Check the folder and the free space."
        ) from error
    return target


def json_block(value: Any) -> str:
    """JSON that may stand in a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _header(document: Mapping[str, Any]) -> str:
    trials, cells, good = document["trials"], document["cell_count"], document["successes"]
    facts = {
        "Experiment": document["experiment"],
        "Trials": f"{trials} in {cells} cell{'s' if cells != 1 else ''}",
        "Successes": f"{good} of {trials}",
        "Written": document["written"].replace("T", " "),
    }
    notes = "".join(f'<p class="note">{html.escape(note)}</p>' for note in document["notes"])
    shown = "".join(f"<div><dt>{name}</dt><dd>{html.escape(str(value))}</dd></div>" for name, value in facts.items())
    return f'<p class="over">pruneft, report of a run</p><h1>{html.escape(document["run"])}</h1><dl class="facts">{shown}</dl>{notes}'


def _statuses(document: Mapping[str, Any]) -> str:
    total = document["trials"]
    return "".join(
        f'<tr><th scope="row">{html.escape(s["name"].lower().replace("_", " "))}</th><td class="number">{s["trials"]}</td>'
        f'<td class="number">{100 * s["trials"] / total:.1f} %</td><td>{html.escape(s["message"])}</td></tr>'
        for s in document["statuses"]
    )


def _manifest(manifest: Mapping[str, Any]) -> str:
    if not manifest:
        return "<tr><td>This run kept no manifest.</td></tr>"
    rows = []
    for name, value in manifest.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
        rows.append(f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(text)}</td></tr>')
    return "".join(rows)


def _colours() -> str:
    """Custom properties: the ramp of success, and the curves on paper and on a dark ground."""
    light = "".join(f"--curve-{i}:{colour};" for i, (colour, _) in enumerate(CURVE_STYLES))
    dark = "".join(f"--curve-{i}:{colour};" for i, colour in enumerate(ON_DARK))
    rules = [f":root{{--ramp:linear-gradient(90deg,{','.join(CIVIDIS)});{light}}}"]
    rules.append(f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}")
    for i, (colour, dash) in enumerate(CURVE_STYLES):
        dashes = "none" if dash == "-" else " ".join(f"{_LINE * length:g}" for length in dash[1])
        rules.append(f".curve-{i}{{stroke:var(--curve-{i});stroke-dasharray:{dashes}}}")
        # Over the cells a line has a white casing in both schemes, and so keeps its colour.
        rules.append(f".on-cells .curve-{i}{{stroke:{colour}}}.on-cells .arrow-{i}{{fill:{colour}}}")
    return "\n".join(rules)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _asset(name: str) -> str:
    return (resources.files("pruneft.report") / "assets" / name).read_text(encoding="utf-8")
