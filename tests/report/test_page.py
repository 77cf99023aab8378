import base64
import hashlib
import json
import re

import matplotlib
import numpy as np
import pytest

from pruneft.plot.phase import _CURVE_STYLES
from pruneft.report import render, write
from pruneft.report._colours import CIVIDIS, ON_DARK
from pruneft.report.page import json_block
from tests.report.runs import Elements, recovery_document, recovery_rows

EVIL = '</script><script>document.title="pwned"</script><img src=x onerror=alert(1)><!--%%DATA%%'


def test_the_numbers_in_the_page_are_the_document():
    made = recovery_document()
    assert json.loads(Elements(render(made)).by_id("data")) == made


def test_the_page_loads_nothing():
    page = render(recovery_document())
    elements = Elements(page)
    for tag in ("img", "iframe", "object", "embed", "audio", "video", "source", "base", "form"):
        assert not elements.all(tag)
    assert [attributes for attributes, _ in elements.all("link")] == [{"rel": "icon", "href": "data:,"}]
    assert not any("src" in attributes for _, attributes, _ in elements.found)
    # The only address is the name of the SVG namespace, which nobody fetches.
    assert set(re.findall(r"https?://[^\s\"']+", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(
        r"@import|url\((?!#)|\bfetch\(|XMLHttpRequest|WebSocket|\bimport\(", page.replace("url(#${id})", "")
    )


def test_the_policy_allows_this_script_and_style_and_nothing_else():
    elements = Elements(render(recovery_document()))
    policy = next(a["content"] for a, _ in elements.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"

    def digest(text):
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    ((_, style),) = elements.all("style")
    scripts = [(a, text) for a, text in elements.all("script") if a.get("type") != "application/json"]
    assert [(a, digest(text)) for a, text in scripts] == [({}, rules["script-src"])]
    assert rules["style-src"] == digest(style)


def test_text_from_the_ledger_is_text_and_never_markup():
    rows = recovery_rows()
    for row in rows:
        row["method"] = EVIL
    made = recovery_document(rows, run=EVIL, manifest={EVIL: EVIL, "list": [EVIL]}, command=EVIL)
    page = render(made)
    elements = Elements(page)
    assert len(elements.all("script")) == 2
    assert not elements.all("img")
    assert json.loads(elements.by_id("data")) == made
    assert elements.by_id("command") == EVIL
    assert [text for _, text in elements.all("h1")] == [EVIL]
    assert (EVIL, EVIL) in [
        (name, value) for (_, name), (_, value) in zip(elements.all("th")[-2:], elements.all("td")[-2:], strict=True)
    ]


@pytest.mark.parametrize("text", ["</script>", "<!--<script>", "]]>", "&lt;", "\u2028\u2029\x00", '"\\'])
def test_a_json_block_cannot_end_its_element(text):
    block = json_block({text: text})
    assert not set("<>&\u2028\u2029\x00") & set(block)
    assert json.loads(block) == {text: text}


def test_a_number_that_is_not_finite_cannot_slip_into_the_block():
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_block({"a": float("nan")})


def test_statuses_notes_and_manifest_are_readable_without_a_script():
    rows = [row for kappa in range(1, 15) for row in recovery_rows(kappa=float(kappa))]
    elements = Elements(render(recovery_document(rows, manifest={"jax": "1.2.3", "grid": {"r": [1, 2]}})))
    cells = [text for _, text in elements.all("td")]
    assert {"1.2.3", '{"r": [1, 2]}', "1246", "55.6 %"} <= set(cells)
    assert any("step budget spent" in text for text in cells)
    notes = [text for attributes, text in elements.all("p") if attributes.get("class") == "note"]
    assert "14 settings in this run: only the first 12 are drawn." in notes


def test_the_ramp_is_that_of_the_figures_and_every_curve_has_a_colour_in_the_dark():
    def rgb(colours):
        return np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in colours])

    there = np.linspace(0, 1, 257)
    ours = np.stack([np.interp(there, np.linspace(0, 1, len(CIVIDIS)), channel) for channel in rgb(CIVIDIS).T], axis=1)
    np.testing.assert_allclose(ours, 255 * matplotlib.colormaps["cividis"](there)[:, :3], atol=5.5)
    assert len(ON_DARK) == len(_CURVE_STYLES)


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "report.html"
    assert write("first", target) == target
    write("second \ud800", target)  # a lone surrogate has no bytes in UTF-8
    assert target.read_text() == "second ?"

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"could not write the report .* No space left on device"):
        write("third", target)
    assert target.read_text() == "second ?"
    assert list(tmp_path.iterdir()) == [target]
