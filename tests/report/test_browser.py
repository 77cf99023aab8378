"""What the page does in a browser: tips by mouse, keyboard and touch, sorting, and no request to anybody."""

import pytest

from pruneft.report import render, write
from tests.report.browser import Browser, find_chromium
from tests.report.runs import SUCCESSES, D, find_cell, recovery_document, recovery_rows
from tests.report.test_page import EVIL

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no chromium or google-chrome on the path")

TIP = "[...document.querySelectorAll('.tip:not([hidden])')].map((tip) => tip.innerText)"
# Cells are drawn row by row from the lowest, each row from the left.
SECOND = "rect.cell:nth-of-type(2)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(find_chromium(), tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write(render(recovery_document()), tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture
def opened(browser, page):
    browser.open(page)
    return browser


def _tip(browser):
    (text,) = browser.run(TIP)
    return text


def test_the_page_asks_for_itself_alone_and_complains_of_nothing(opened, page):
    assert opened.run("document.querySelectorAll('rect.cell').length") == 20
    assert opened.requests() == [page.resolve().as_uri()]
    assert opened.complaints() == []


def test_hovering_a_cell_shows_its_counts_interval_statuses_and_medians(opened):
    assert opened.run(TIP) == []
    opened.hover(SECOND)
    text = _tip(opened)
    cell = find_cell(recovery_document(), r=1, n=12)
    assert cell["successes"] == SUCCESSES[1][1] == 2
    assert "true rank r = 1, measurements per degree of freedom, n / dof = 1.2" in text
    assert "2 of 8 (25 %)" in text
    assert f"{100 * cell['low']:.1f} % to {100 * cell['high']:.1f} %" in text
    assert "6 budget spent, 2 converged" in text
    assert "steps 503.5" in text
    assert f"d = {D}, r = 1, n = 12" in text
    assert "gap" not in text  # a median that does not exist
    opened.hover("h1")
    assert opened.run(TIP) == []


def test_the_keyboard_reaches_every_cell(opened):
    opened.run("document.querySelector('h1').tabIndex = -1, document.querySelector('h1').focus()")
    opened.press("Tab")
    assert opened.run("document.activeElement.getAttribute('aria-roledescription')") == "phase diagram"
    assert "true rank r = 1" in _tip(opened)
    assert "0 of 8" in _tip(opened)
    seen = []
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "End", "Home", "ArrowDown"):
        opened.press(key)
        text = _tip(opened)
        seen.append((int(text.split("true rank r = ")[1].split(",")[0]), int(text.split("successes")[1].split()[0])))
    assert seen == [(1, 2), (1, 6), (2, 8), (2, 8), (2, 0), (1, 0)]
    opened.press("Escape")
    assert opened.run(TIP) == []
    opened.press("ArrowRight")
    assert len(opened.run(TIP)) == 1
    opened.press("Tab")  # to the transition chart, which has a tip of its own
    assert "50 % point" in _tip(opened)


def test_a_row_that_is_picked_is_shown_below(opened):
    label = "document.querySelectorAll('figure svg.chart')[2].getAttribute('aria-label')"
    assert "true rank r = 1" in opened.run(label)
    opened.click("rect.cell:nth-of-type(7)")
    assert "true rank r = 2" in opened.run(label)
    assert opened.run("document.querySelector('select').value") == "1"
    opened.run(
        "(() => { const s = document.querySelector('select'); s.value = '3'; s.dispatchEvent(new Event('change')); })()"
    )
    assert "true rank r = 4" in opened.run(label)


def test_a_row_without_a_transition_says_so(opened):
    opened.run("document.querySelector('details').open = true")
    text = opened.run("document.querySelector('details').innerText")
    assert "success was never seen" in text
    assert "success was always seen" in text
    assert text.count("not bracketed") == 4  # point and interval of both


def test_the_table_of_cells_is_sorted_by_its_headings(opened):
    def column(name):
        return opened.run(
            "(() => { const heads = [...document.querySelectorAll('#cells th')];"
            f" const i = heads.findIndex((h) => h.textContent === {name!r});"
            " return [...document.querySelectorAll('#cells tbody tr')].map((row) => row.cells[i].textContent); })()"
        )

    def press(name):
        opened.run(
            f"[...document.querySelectorAll('#cells th button')].find((b) => b.textContent === {name!r}).click()"
        )

    by_cell = [str(good) for counts in SUCCESSES.values() for good in counts]
    assert column("successes") == by_cell
    press("successes")
    assert column("successes") == sorted(by_cell, key=int)
    assert opened.run("document.querySelector('#cells th[aria-sort=ascending]').textContent") == "successes"
    press("successes")
    assert column("successes") == sorted(by_cell, key=int, reverse=True)
    press("n")
    assert column("n") == sorted(column("n"), key=int)
    assert opened.run("document.querySelectorAll('#cells th[aria-sort=ascending]').length") == 1


@pytest.mark.parametrize("dark", [False, True])
def test_words_stand_out_from_their_ground_in_both_schemes(browser, page, dark):
    browser.open(page, dark=dark)
    low = browser.run(
        """(() => {
          const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
          const light = (text) => text.match(/[\\d.]+/g).slice(0, 3)
            .reduce((sum, c, i) => sum + linear(c / 255) * [0.2126, 0.7152, 0.0722][i], 0);
          const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
          const paper = light(getComputedStyle(document.body).backgroundColor);
          const words = [...document.querySelectorAll('h1, h2, h3, .hint, dt, dd, td, label, .legend')]
            .map((e) => getComputedStyle(e).color);
          const axes = [...document.querySelectorAll('.chart text:not(.fraction)')].map((e) => getComputedStyle(e).fill);
          const seen = [...document.querySelectorAll('.fraction')].map((e) => {
            const b = e.getBoundingClientRect(), x = b.left + b.width / 2, y = b.top + b.height / 2;
            const cell = [...document.querySelectorAll('rect.cell')].find((r) => { const s = r.getBoundingClientRect();
              return s.left <= x && x <= s.right && s.top <= y && y <= s.bottom; });
            return ratio(light(getComputedStyle(e).fill), light(getComputedStyle(cell).fill)); });
          return [paper, seen.length, Math.min(...words.concat(axes).map((c) => ratio(light(c), paper)), ...seen)];
        })()"""
    )
    assert (low[0] < 0.1) == dark
    assert low[1] >= 10
    assert low[2] >= 4.5  # WCAG AA for text


def test_a_finger_shows_a_cell_and_a_phone_needs_no_sideways_scrolling(browser, page):
    browser.open(page, width=360, height=740, touch=True)
    assert browser.run("document.documentElement.scrollWidth") == 360
    browser.tap(SECOND)
    assert "2 of 8 (25 %)" in _tip(browser)
    left, right = browser.run(
        "(() => { const b = document.querySelector('.tip:not([hidden])').getBoundingClientRect(); return [b.left, b.right]; })()"
    )
    assert left >= 0
    assert right <= 360
    assert browser.complaints() == []


def test_the_charts_follow_the_width_of_the_window(opened):
    wide = opened.run("document.querySelector('svg.chart').viewBox.baseVal.width")
    opened.call("Emulation.setDeviceMetricsOverride", width=500, height=900, deviceScaleFactor=1, mobile=False)
    opened.run("new Promise((done) => setTimeout(done, 500))")
    narrow = opened.run("document.querySelector('svg.chart').viewBox.baseVal.width")
    assert narrow < 500 < wide
    assert opened.run("document.querySelectorAll('.tip').length") == 3  # one for each chart, none left over


def test_markup_from_the_ledger_does_nothing(browser, tmp_path):
    rows = recovery_rows()
    for row in rows:
        row["method"] = EVIL
    made = recovery_document(rows, run=EVIL, manifest={EVIL: EVIL}, command=EVIL)
    browser.open(write(render(made), tmp_path / "evil.html"))
    assert browser.run("document.title").startswith(EVIL)
    assert browser.run("document.querySelectorAll('img').length") == 0
    browser.hover(SECOND)
    assert EVIL in _tip(browser).replace("\n", "")
    assert len(browser.requests()) == 1
    assert browser.complaints() == []


def test_a_page_of_many_cells_is_drawn_at_once_and_its_table_by_and_by(browser, tmp_path):
    row = {**recovery_rows()[0], "d": 60, "k": 60}
    rows = [{**row, "r": r, "n": n, "success": n > 110} for r in range(1, 41) for n in range(100, 140)]
    browser.open(write(render(recovery_document(rows)), tmp_path / "many.html"))
    assert browser.run("document.querySelectorAll('rect.cell').length") == 1600
    assert browser.run("document.querySelectorAll('#cells tbody tr').length") == 100
    for shown in (600, 1100, 1600):
        assert not browser.run("document.querySelector('#cells button.more').hidden")
        browser.click("#cells button.more")
        assert browser.run("document.querySelectorAll('#cells tbody tr').length") == shown
    assert browser.run("document.querySelector('#cells button.more').hidden")
    assert (
        browser.run("new Set([...document.querySelectorAll('#cells tbody tr')].map((r) => r.textContent)).size") == 1600
    )
    assert browser.complaints() == []


def test_a_run_of_one_row_is_a_curve(browser, tmp_path):
    rows = [row for row in recovery_rows() if row["r"] == 1]
    browser.open(write(render(recovery_document(rows)), tmp_path / "curve.html"))
    assert browser.run("document.querySelectorAll('svg.chart').length") == 1
    browser.hover("svg.chart circle")
    assert "0 of 8 (0 %)" in _tip(browser)
    assert "95 % interval 1." in browser.run("document.querySelector('#panels').innerText")
    assert browser.complaints() == []


def test_a_run_without_numeric_axes_is_a_table(browser, tmp_path):
    made = {**recovery_document(), "panels": []}
    browser.open(write(render(made), tmp_path / "table.html"))
    assert browser.run("document.querySelectorAll('svg.chart').length") == 0
    assert browser.run("document.querySelectorAll('#cells tbody tr').length") == 20
    assert browser.complaints() == []


def test_pooled_cells_say_how_many_they_are(browser, tmp_path):
    made = recovery_document(most_cells=8)
    browser.open(write(render(made), tmp_path / "pooled.html"))
    assert browser.run("document.querySelectorAll('rect.cell').length") == len(made["panels"][0]["points"]) <= 8
    assert browser.run("document.querySelector('#cells').hidden")
    notes = browser.run("[...document.querySelectorAll('header .note')].map((note) => note.textContent)")
    assert notes == made["notes"]
    assert len(notes) == 2
    browser.hover(SECOND)
    cell = made["cells"][made["panels"][0]["points"][1]["cell"]]
    text = _tip(browser)
    assert "true rank r 1 to 2" in text
    assert f"{cell['pooled']} cells" in text
    assert f"{cell['successes']} of {cell['trials']}" in text
    assert browser.complaints() == []
