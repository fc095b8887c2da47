"""The page about runs in a browser: no error, no request, and what moves when asked."""

import io
import os
import pathlib
import shutil

import numpy as np
import pytest

from draftx.runs import write_report

from .reports import EVIL, make_run


pytestmark = pytest.mark.browser
_COMMANDS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def _skip(reason):
    # Where it is promised to run, nothing may pass for a test that did not.
    if os.environ.get("DRAFTX_NEEDS_BROWSER"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window: the system's, or the one that playwright brings."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _skip("needs playwright: `pip install .[browser]`")
    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, _COMMANDS)), None)
        if found is None and not os.path.exists(playwright.chromium.executable_path):
            _skip("needs Chromium: the system's, or `playwright install chromium`")
        # Who is root, as in a container, has no sandbox.
        started = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox"]
        )
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    flags = ["--rank", "3"]
    runs = [
        make_run(folder / "first").path,
        make_run(folder / "<b>second", steps=8, of=12, flags=flags).path,
    ]
    return write_report(runs, folder / "report.html")


@pytest.fixture
def open_page(browser, report):
    """Opens the report as some device does; at the end nothing may have gone wrong."""
    opened = []

    def open_it(width=390, scheme="light", scripts=True):
        context = browser.new_context(
            viewport={"width": width, "height": 844},
            color_scheme=scheme,
            java_script_enabled=scripts,
        )
        page = context.new_page()
        page.faults = []
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("console", lambda message: page.faults.append(message.text))
        page.on("request", lambda request: page.faults.append(request.url[:99]))
        page.goto(report.as_uri())
        opened.append(page)
        return page

    yield open_it
    for page in opened:
        asked = [fault for fault in page.faults if not fault.startswith("data:")]
        assert asked == [report.as_uri()[:99]]
        page.context.close()


def _colors(locator):
    """What is seen of an element, in [0, 1]."""
    from matplotlib import image

    return image.imread(io.BytesIO(locator.screenshot()), format="png")[..., :3]


def _middle(colors):
    height, width = colors.shape[:2]
    part = colors[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3]
    return part.mean((0, 1))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 820, 1400])
def test_it_fits_and_is_of_the_wanted_brightness(open_page, width, scheme, tmp_path):
    page = open_page(width, scheme)
    # What runs and prompts are called did not become part of the page.
    assert page.title() == "first, <b>second · draftx"
    assert page.get_by_text(EVIL).first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    path = pathlib.Path(tmp_path / "page.png")
    page.screenshot(path=path, full_page=True)
    from matplotlib import image

    seen = image.imread(path)[..., :3]
    assert seen.shape[1] == width
    # Most of it is the background.
    assert (np.median(seen) > 0.9) == (scheme == "light")
    assert (np.median(seen) < 0.2) == (scheme == "dark")
    # Words of charts are as large as any, however wide the chart.
    sizes = page.locator(".plot .y").evaluate_all(
        "all => all.map(one => parseFloat(getComputedStyle(one).fontSize))"
    )
    assert min(sizes) >= 11
    # Nothing of the words beside a chart is cut off.
    left = page.locator(".plot .y").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().left)"
    )
    assert min(left) > 0


def test_the_slider_changes_the_pictures(open_page):
    page = open_page()
    first, second = (
        page.locator("#gallery .run").nth(i).locator(".stack").first for i in (0, 1)
    )
    # As many steps, as much red.
    np.testing.assert_allclose(_middle(_colors(first)), [1, 0, 0.5], atol=0.01)
    slider = page.locator("#step")
    output = page.locator("#gallery output")
    assert output.inner_text() == "step 12"
    slider.focus()
    seen = []
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
        seen.append(
            (output.inner_text(), *(_middle(_colors(x))[0] for x in (first, second)))
        )
    texts, reds, others = zip(*seen, strict=True)
    assert texts == ("step 8", "step 6", "step 4", "step 0")
    # Where a run has drawn nothing, it shows what it drew last before.
    np.testing.assert_allclose(reds, [0.5, 0.5, 0, 0], atol=0.01)
    np.testing.assert_allclose(others, [1, 0.5, 0.5, 0], atol=0.01)
    assert page.locator("#gallery .at").all_inner_texts() == ["step 0", "step 0"]
    page.locator("#play").click()
    page.locator("output", has_text="step 0").wait_for()
    page.locator("output", has_text="step 12").wait_for()
    np.testing.assert_allclose(_middle(_colors(first)), [1, 0, 0.5], atol=0.01)
    assert page.locator("#play").get_attribute("aria-label") == "play"


def test_before_is_wiped_away(open_page):
    page = open_page()
    stack = page.locator("#wipes .stack").first
    width = _colors(stack).shape[1]
    before, after = [0, 1, 0], [1, 0, 0.5]
    at = lambda x: _colors(stack)[40, round(width * x)]
    np.testing.assert_allclose(at(0.3), before, atol=0.01)
    np.testing.assert_allclose(at(0.7), after, atol=0.01)
    stack.hover(position={"x": width * 0.9, "y": 30})
    np.testing.assert_allclose(at(0.7), before, atol=0.01)
    assert page.locator("#wipe").input_value() == "90"
    page.locator("#wipe").focus()
    page.keyboard.press("Home")
    np.testing.assert_allclose(at(0.3), after, atol=0.01)


def test_values_under_a_pointer(open_page):
    page = open_page()
    plot = page.locator(".plot").first
    tip = plot.locator(".tip")
    assert not tip.is_visible()
    box = plot.bounding_box()
    plot.hover(position={"x": box["width"] * 6 / 12, "y": 40})
    assert tip.inner_text().split("\n") == [
        *("step 6", "first −15 ± 2", "<b>second −15 ± 2"),
    ]
    page.mouse.move(1, 1)
    assert not tip.is_visible()


def test_without_scripts_the_last_pictures_are_seen(open_page):
    page = open_page(scripts=False)
    first = page.locator("#gallery .stack").first
    np.testing.assert_allclose(_middle(_colors(first)), [1, 0, 0.5], atol=0.01)
    assert page.locator(".plot svg").first.is_visible()
