"""The page in a real browser: sliders move numbers and markers, tables sort, filter and save, nothing leaves it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from browser import Browser
from study_rows_made import ITEMS, full_study
from worlds import hits_that_pay, world

from recbole_scale.report.command import main

HOSTILE = "</script><script>window.hit = 1</script>\"><img src=x onerror='window.hit = 1'>&amp;{{ 7 * 7 }}"


def page_of(folder: Path, rows: list[dict], *options: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "runs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = folder / "page.html"
    assert main(["--rows", str(folder / "runs.jsonl"), "--out", str(out), "--resamples", "100", *options]) == 0
    return out


@pytest.fixture(scope="module")
def browser():
    started = Browser()
    yield started
    started.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a world where size pays, with a baseline."""
    rows = world("pays", 1)
    rows.append({**rows[0], "run_id": "gru", "model": "GRU4Rec", "n_blocks": None, "n_layers": None, "size": None,
                 "test_nll": 6.3, "test_metrics": {"recall@10": 0.09, "ndcg@10": 0.04}})  # fmt: skip
    return page_of(tmp_path_factory.mktemp("page"), rows, "--holdout", "1.57M")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The same with names that would like to be code."""
    rows = [{**row, "dataset": HOSTILE, "device": HOSTILE, "commit": HOSTILE, "run_id": f"{HOSTILE}{index}",
             "model": HOSTILE if row["model"] != "ScaledSASRec" else "ScaledSASRec",
             "settings": {**(row.get("settings") or {}), HOSTILE: HOSTILE}, "error": HOSTILE}
            for index, row in enumerate(full_study())]  # fmt: skip
    return page_of(tmp_path_factory.mktemp("hostile"), rows)


def text(browser: Browser, selector: str) -> str:
    return browser.run(f"document.querySelector({json.dumps(selector)}).textContent.trim()")


def slide(browser: Browser, name: str, value: float | str) -> None:
    browser.run(f"(s => {{ s.value = {value}; s.dispatchEvent(new Event('input')); }})"
                f"(document.getElementById('{name}'))")  # fmt: skip


def marker(browser: Browser, figure: str) -> tuple[float, float]:
    at = "document.querySelector('#figure-{} .marker circle').getAttribute('{}')"
    return float(browser.run(at.format(figure, "cx"))), float(browser.run(at.format(figure, "cy")))


def test_the_size_slider_moves_numbers_and_the_markers_along_the_curves(browser, page):
    browser.open(page)
    read = {}
    for index in (20, 70):
        slide(browser, "size", index)
        n = browser.run("JSON.parse(document.getElementById('whatif').dataset.curves).n")[index]
        hits = float(text(browser, "#at-hits").split()[0]) / 1000
        assert hits == pytest.approx(hits_that_pay(n), abs=0.006)  # the known law of the made rows
        read[index] = (text(browser, "#at-n"), text(browser, "#at-loss"), text(browser, "#at-hours"),
                       text(browser, "#at-memory"), marker(browser, "answer-hits"))  # fmt: skip
        assert " to " in text(browser, "#at-hits-band")
    assert all(a != b for a, b in zip(read[20], read[70], strict=True))
    (x_small, y_small), (x_large, y_large) = read[20][-1], read[70][-1]
    assert x_large > x_small and y_large < y_small  # to the right, and up: SVG counts from the top


def test_the_marker_lies_where_the_figure_has_that_value(browser, page):
    """The place of a run's circle and that of the marker at its size agree with the axis they share."""
    browser.open(page)
    slide(browser, "size", browser.run("JSON.parse(document.getElementById('whatif').dataset.curves).now"))
    marks = browser.run("JSON.parse(document.querySelector('#figure-answer-hits .drawing').dataset.marks)")
    runs = [mark for mark in marks if "run" in mark[2] and mark[2].endswith("N 1.57M")]
    assert len(runs) == 3
    x, y = marker(browser, "answer-hits")
    assert all(abs(mark[0] - x) < 0.2 for mark in runs)
    assert min(mark[1] for mark in runs) - 15 < y < max(mark[1] for mark in runs) + 15


def test_the_budget_slider_chooses_the_largest_size_within_it(browser, page):
    browser.open(page)
    slide(browser, "budget", 0)
    smallest = text(browser, "#at-n")
    slide(browser, "budget", 100)
    assert text(browser, "#at-n") != smallest
    known = browser.run("JSON.parse(document.getElementById('whatif').dataset.curves)")
    index = int(browser.run("document.getElementById('size').value"))
    low, high = math.log(known["hours"][0][0]), math.log(known["hours"][-1][0])
    budget = math.exp(low + (high - low) * 100 / (len(known["n"]) - 1))
    assert known["hours"][index][0] <= budget * 1.001 < known["hours"][index + 1][0] * 1.001


def test_what_a_doubling_must_win_changes_the_verdict_of_the_slider(browser, page):
    browser.open(page)
    assert text(browser, "#verdict-word") == "Yes" and text(browser, "#pays").startswith("At that: Yes;")
    assert "2.0 more hits in 1,000 visits" in text(browser, "#at-worth")
    slide(browser, "worth", "document.getElementById('worth').max")
    assert "At that: No;" in text(browser, "#pays") and "20 more hits" in text(browser, "#at-worth")


def test_values_are_told_under_the_pointer_and_by_the_arrow_keys_on_every_figure(browser, page):
    browser.open(page)
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    count = browser.run("document.querySelectorAll('.drawing').length")
    assert count >= 5
    for index in range(count):
        told = browser.run(f"""(() => {{ const d = document.querySelectorAll('.drawing')[{index}];
            d.scrollIntoView(); const m = JSON.parse(d.dataset.marks); if (!m.length) return 'none';
            const s = d.querySelector('svg'), b = s.getBoundingClientRect(), u = b.width / s.viewBox.baseVal.width;
            const at = {{clientX: b.left + m[0][0] * u, clientY: b.top + m[0][1] * u}};
            d.dispatchEvent(new PointerEvent('pointermove', at));
            const t = document.getElementById('tip'); return [t.hidden, t.textContent, m.map(x => x[2])]; }})()""")
        assert told != "none" and told[0] is False and told[1] in told[2] and " at " in told[1]
    browser.run("document.querySelector('.drawing').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}))")
    assert not browser.run("document.getElementById('tip').hidden")
    browser.run("document.querySelector('.drawing').dispatchEvent(new PointerEvent('pointerleave'))")
    assert browser.run("document.getElementById('tip').hidden")


RUNS = ".tabular[data-file='runs.csv']"


def column(browser: Browser, name: str) -> list[str]:
    return browser.run(f"""(() => {{ const t = document.querySelector("{RUNS} table");
        const at = [...t.tHead.rows[0].cells].findIndex(c => c.textContent.trim() === {json.dumps(name)});
        return [...t.tBodies[0].rows].filter(r => !r.hidden).map(r => r.cells[at].textContent.trim()); }})()""")


def click(browser: Browser, name: str) -> None:
    browser.run(f"""[...document.querySelectorAll("{RUNS} th .sort")]
        .find(b => b.textContent.trim() === {json.dumps(name)}).click()""")


def test_the_table_of_runs_sorts_by_value_and_filters(browser, page):
    browser.open(page)
    click(browser, "test_nll")
    up = [float(cell) for cell in column(browser, "test_nll")]
    assert up == sorted(up) and len(up) == 18
    click(browser, "test_nll")
    assert [float(cell) for cell in column(browser, "test_nll")] == up[::-1]
    click(browser, "N")  # 6.14K before 24.6K before 1.57M: by value, not by letters
    assert list(dict.fromkeys(column(browser, "N"))) == ["6.14K", "24.6K", "98.3K", "197K", "786K", "1.57M"]
    browser.run(f"""(f => {{ f.value = '8 x 128, held'; f.dispatchEvent(new Event('input')); }})
        (document.querySelector("{RUNS} .filter"))""")
    assert column(browser, "N") == ["1.57M"] * 3 and "3 of 18" in text(browser, f"{RUNS} .count")


def test_the_csv_holds_the_rows_shown_and_no_formula(browser, hostile):
    browser.open(hostile)
    browser.run("""(() => { const t = document.querySelector(".tabular[data-file='runs.csv'] tbody");
        t.rows[0].cells[0].textContent = '=1+1'; t.rows[1].cells[0].textContent = 'a "quoted", one';
        window.saved = []; URL.createObjectURL = b => { window.saved.push(b); return 'blob:x'; };
        HTMLAnchorElement.prototype.click = function () { window.named = this.download; };
        document.querySelector(".csv").click(); })()""")
    content = browser.run("window.saved[0].text()")
    lines = content.split("\r\n")
    assert browser.run("window.named") == "runs.csv"
    assert lines[1].startswith('"\'=1+1",') and lines[2].startswith('"a ""quoted"", one",')
    assert len(lines) == 2 + len(column(browser, "seed"))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1100])
def test_no_complaint_no_request_no_sideways_scroll_and_readable_text(browser, page, hostile, theme, width):
    for path in (page, hostile):
        browser.requests.clear()
        browser.complaints.clear()
        browser.open(path, width=width, height=844, theme=theme)
        browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.complaints == []
        assert [url for url in browser.requests if not url.startswith("file:")] == []
        assert len(browser.requests) == 1
        sizes = browser.run("""[...document.querySelectorAll('.figures svg text')].map(t => {
            const s = t.ownerSVGElement; const unit = s.getBoundingClientRect().width / s.viewBox.baseVal.width;
            return parseFloat(getComputedStyle(t).fontSize) * unit; })""")
        assert min(sizes) >= 9.5
        ink, paper = browser.run("""[getComputedStyle(document.body).color,
            getComputedStyle(document.body).backgroundColor].map(c => c.match(/\\d+/g).slice(0, 3).map(Number))""")
        assert (sum(ink) > sum(paper)) == (theme == "dark") and abs(sum(ink) - sum(paper)) > 400


def test_hostile_names_stay_text(browser, hostile):
    browser.open(hostile)
    assert browser.run("window.hit") is None
    assert browser.run("document.querySelectorAll('script').length") == 1
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert HOSTILE in text(browser, ".question") and "49" not in text(browser, ".question")


@pytest.mark.parametrize(
    ("put_in", "happened"),
    [
        ("<script>window.hit = 1</script>", "window.hit"),
        ("<style>h1 { font-size: 99px }</style>", "getComputedStyle(document.querySelector('h1')).fontSize === '99px'"),
        ("<p id=p style='font-size: 99px'></p>", "getComputedStyle(document.getElementById('p')).fontSize === '99px'"),
        ("<img src='data:image/gif;base64,R0lGODlhAQABAAAAACw=' onload='window.hit = 1'>", "window.hit"),
    ],
)
def test_only_the_script_and_the_style_of_the_page_are_admitted(browser, page, tmp_path, put_in, happened):
    """The policy admits both by their hashes; another one, put in by whatever means, is refused."""
    content = page.read_text()
    assert "unsafe" not in content and " style=" not in content and content.count("<style") == 1
    other = tmp_path / "other.html"
    other.write_text(content.replace("</main>", f"{put_in}</main>"))
    browser.complaints.clear()
    browser.open(other)
    assert not browser.run(happened)
    assert any("Content Security Policy" in one for one in browser.complaints)
    browser.complaints.clear()


def test_paper_shows_everything(browser, page):
    browser.open(page, media="print")
    browser.run("window.dispatchEvent(new Event('beforeprint'))")
    assert browser.run("[...document.querySelectorAll('details')].every(d => d.open)")
    assert browser.run("getComputedStyle(document.querySelector('.tools')).display") == "none"


def test_the_page_says_its_levels_words_users_machine_and_command(page):
    from html import unescape

    content = unescape(page.read_text())
    for said in (f"{math.log(ITEMS):.3f}", "GRU4Rec", "as unsure as among", "users", "recbole-scale report --rows",
                 "Where the width of the band comes from", "What would sharpen the estimate next"):  # fmt: skip
        assert said in content
