"""The page of the report: one file, inert names, below 10 MB, and in headless Chromium."""

import json
import re
import shutil
import time

import pytest

from exp.reporting import collect, html, tables
from tests.report_fixtures import CLASSES, HOSTILE, write_evaluation, write_example, write_training


def render(folder):
    runs, problems = collect.collect([folder])
    return html.render("Runs", runs, tables.build_tables(runs), problems)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Path of the page of a folder with runs of every kind and state."""
    folder = tmp_path_factory.mktemp("page")
    path = folder / "report.html"
    path.write_text(render(write_example(folder / "runs")), encoding="utf-8")
    return path


def test_names_are_inert_and_the_data_is_whole(page):
    text = page.read_text(encoding="utf-8")
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)  # without Plotly and the page's script
    assert HOSTILE not in text and "<script>window" not in text and "&lt;script&gt;window.hacked" in own
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert data["embedding"]["maps"][0]["classes"] == CLASSES and data["world"]["sets"] and data["confusions"]
    assert [chart["title"] for chart in data["curves"]["charts"]][:2] == ["Loss: training", "Loss: vicreg"]


def test_the_page_is_one_file_below_10_mb_that_may_not_use_the_network(page):
    text = re.sub(r"<script>.*?</script>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert page.stat().st_size < 10_000_000 and "default-src 'none'" in text
    sources = re.findall(r"(?:src|href)=[\"']?(.{5})", text)
    assert sources and all(source.startswith(("data:", "#")) for source in sources)


def test_text_that_is_not_utf_8_is_escaped(tmp_path):
    write_training(tmp_path / "run", lines=3)
    (tmp_path / "run" / "config.json").write_text('{"config": {"augment": "\\ud800"}, "kind": "x"}')
    assert "\\ud800" in render(tmp_path).encode().decode()


def test_sections_without_data_are_left_out_and_the_rest_is_named(tmp_path, page):
    write_evaluation(tmp_path / "a", "random", "random", 0.5, locations=None, confusion=None)
    text = render(tmp_path)
    for section in ("curves", "map", "neighbors", "world", "confusion", "views", "examples", "notes"):
        assert f'<section id="{section}">' not in text and f'<section id="{section}">' in page.read_text()
    assert "2018-12 and 2019-03</li>" in page.read_text() and "Preset temporal, scale=0.3,1" in page.read_text()
    assert "damaged/result.json" in page.read_text() and "python main.py --exp-dir vicreg" in page.read_text()


@pytest.mark.slow
def test_200_run_folders_take_less_than_20_seconds_and_fit(tmp_path):
    for number in range(200):
        folder = write_training(tmp_path / f"run_{number:03d}", steps=100, seed=number)
        write_evaluation(folder / "freeze_100", f"run_{number:03d}/trained_model.pth", "VICReg", 0.3 + number / 1000)
    started = time.process_time()  # not affected by what else the machine does
    text = render(tmp_path)
    assert time.process_time() - started < 20
    assert len(text.encode()) < 10_000_000 and text.count('<details class="run"') == 400


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium."""
    library = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("no Chromium; apt-get install chromium")
    with library.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


def until(view, condition):
    """Wait until a JavaScript expression is true; Playwright's own function needs eval, which the page forbids."""
    for _ in range(300):
        if view.evaluate(condition):
            return
        view.wait_for_timeout(100)
    raise TimeoutError(condition)


@pytest.fixture(scope="module", params=[(1400, "light"), (360, "dark")], ids=str)
def view(browser, page, request):
    """The page in a window of one width and color scheme, with all of it scrolled through; errors fail the test."""
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    shown, errors = context.new_page(), []
    shown.on("pageerror", lambda error: errors.append(str(error)))
    shown.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    shown.on("request", lambda request: errors.append(request.url) if request.url.startswith("http") else None)
    shown.goto(page.as_uri())
    for section in shown.query_selector_all("section"):
        section.scroll_into_view_if_needed()
    until(shown, "document.querySelectorAll('.js-plotly-plot').length >= 8")
    yield shown
    assert errors == [] and shown.evaluate("window.hacked") is None
    context.close()


def test_nothing_is_wider_than_the_window_and_scores_are_in_it(view):
    assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")
    score = view.locator("#tables td.best .value").first
    score.scroll_into_view_if_needed()
    box = score.bounding_box()
    assert score.inner_text() == "0.620" and 0 <= box["x"] and box["x"] + box["width"] <= view.viewport_size["width"]


def test_hovering_and_arrow_keys_show_thumbnail_class_location_and_date(view):
    plot = view.locator("#embedding")
    plot.scroll_into_view_if_needed()
    view.wait_for_selector("#embedding .scatterlayer .points path")
    point = view.locator("#embedding .scatterlayer .trace").last.locator(".points path").first
    box = point.bounding_box()
    view.mouse.move(box["x"] + box["width"] / 2 + 40, box["y"] + 40)
    view.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
    tooltip = view.locator("#tooltip")
    tooltip.wait_for(state="visible")
    style = "getComputedStyle(document.querySelector('#tooltip .thumbnail')).backgroundImage"
    until(view, f"{style}.startsWith('url(\"data:image/webp')")
    assert "2018-12" in tooltip.inner_text()
    plot.focus()
    view.keyboard.press("ArrowRight")
    first = tooltip.inner_text()
    view.keyboard.press("ArrowRight")
    assert tooltip.is_visible() and "2018-12" in first and tooltip.inner_text() != ""


def test_the_class_filter_and_the_runs_of_the_curves_work(view):
    view.locator("#embedding").scroll_into_view_if_needed()
    view.wait_for_selector("#embedding .scatterlayer .points path")
    count = "document.getElementById('embedding').data[1].x.length"
    assert view.evaluate(count) == 120
    view.select_option("#class-filter", index=1)
    until(view, f"{count} < 120")
    view.select_option("#class-filter", "")
    until(view, f"{count} === 120")
    plot = "document.querySelector('#charts .card:nth-child(2) .plot')"  # the loss of VICReg
    lines = f"{plot}.data.filter(trace => trace.mode.includes('lines')).length"
    view.locator("#charts .plot").nth(1).scroll_into_view_if_needed()
    until(view, f"!!{plot}.data")
    before = view.evaluate(lines)
    view.locator("#run-legend button").first.click()
    until(view, f"{lines} === {before - 1}")


def test_a_row_links_to_the_command_that_reproduces_it(view):
    view.locator("#tables a.source").first.click()
    opened = view.locator("details.run[open]")
    assert "python main.py" in opened.inner_text() and "stopped: SIGTERM" in opened.inner_text()
