"""The page in a real headless Chromium; skipped where there is none."""

import json
import re
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pytest

from jax_seg.metrics.segmentation import confusion
from jax_seg.ops.classes import MASKED
from jax_seg.report import page, views
from jax_seg.runs.run import read_runs, read_volume
from tests.conftest import TIME_LIMIT
from tests.report_runs import make_run_of_classes

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
VOLUMES = 'section[data-title="Volume by volume"]'


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    driver = shutil.which("chromedriver")
    if not CHROMIUM or not driver:
        pytest.skip("there is no chromium with chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "headless",
        "no-sandbox",
        "disable-dev-shm-usage",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "window-size=1440,1000",
        f"user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=patient_service(driver)) as browser:
        browser.set_page_load_timeout(TIME_LIMIT)
        browser.set_script_timeout(TIME_LIMIT)
        yield browser


def patient_service(driver):
    """The driver's process; selenium's own asks 70 times whether it listens, and then gives up."""
    from selenium.webdriver import ChromeService

    class Service(ChromeService):
        started = False  # after that selenium asks whether it has ended

        def is_connectable(self):
            deadline = time.monotonic() + TIME_LIMIT
            while not (listens := super().is_connectable()) and not self.started:
                self.assert_process_still_running()
                assert time.monotonic() < deadline, f"{driver} does not listen"
                time.sleep(0.05)
            self.started = True
            return listens

    return Service(executable_path=driver)


@pytest.fixture
def opened(browser, runs, tmp_path):
    """The page of two runs in a browser that has finished drawing."""
    return open_page(browser, tmp_path, [run.workdir for run in runs])


def open_page(browser, folder, workdirs):
    path = folder / "report.html"
    page.write_page(workdirs, path)
    browser.get_log("performance")
    browser.get(path.as_uri())
    wait_until_drawn(browser, 0)
    return SimpleNamespace(browser=browser, path=path, find=finder(browser))


def finder(browser):
    return lambda selector: browser.execute_script(
        "return document.querySelector(arguments[0])", selector
    )


def drawn(browser):
    return int(
        browser.execute_script("return document.querySelector('#viewer').dataset.drawn ?? '0'")
    )


def wait_until_drawn(browser, before):
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, TIME_LIMIT, poll_frequency=0.05).until(
        lambda _: drawn(browser) >= before + 3
    )


def slide(opened, selector, value):
    before = drawn(opened.browser)
    opened.browser.execute_script(
        "const s = document.querySelector(arguments[0]); s.value = arguments[1];"
        "s.dispatchEvent(new Event('input', {bubbles: true}))",
        selector,
        value,
    )
    wait_until_drawn(opened.browser, before)


def picture(opened, panel, axis=0):
    return opened.browser.execute_script(
        "return document.querySelector(arguments[0]).toDataURL()",
        f'canvas[data-axis="{axis}"][data-panel="{panel}"]',
    )


def shown_counts(opened, axis=0):
    text = opened.find(f'.slice-score[data-axis="{axis}"]').text
    return [int(number) for number in re.search(r"(\d+) wrong, (\d+) missed", text).groups()]


def counted(run, name, axis, position, threshold):
    _, label, probability = read_volume(run, name)
    label, probability = np.take(label, position, axis), np.take(probability, position, axis)
    counts = confusion(probability.astype(np.float64) > threshold, label)
    return [counts.false_positive, counts.false_negative]


def test_page_loads_without_errors_and_without_network(opened):
    assert [entry for entry in opened.browser.get_log("browser")] == []
    messages = [json.loads(e["message"])["message"] for e in opened.browser.get_log("performance")]
    requests = {
        m["params"]["request"]["url"]
        for m in messages
        if m["method"] == "Network.requestWillBeSent"
    }
    asked = {url for url in requests if not url.startswith(("data:", "chrome"))}
    assert asked == {opened.path.as_uri()}
    charts = opened.browser.execute_script("return document.querySelectorAll('.chart svg').length")
    assert charts > 8


def test_sliders_change_the_picture_and_tell_the_right_counts(opened, runs):
    worst = views.choose(runs)[0][0]
    first = picture(opened, "image"), picture(opened, "errors")
    slide(opened, 'input[data-axis="0"]', 4)
    assert picture(opened, "image") != first[0] and picture(opened, "errors") != first[1]
    assert opened.find('output[data-axis="0"]').text == "4 of 19"
    assert shown_counts(opened) == counted(runs[0], worst, 0, 4, 0.5)
    slide(opened, "#threshold", 5)  # the sixth of 0.05, 0.1, …
    assert opened.find("#threshold-value").text == "0.3"
    assert shown_counts(opened) == counted(runs[0], worst, 0, 4, 0.3)
    slide(opened, 'input[data-axis="2"]', 7)
    assert shown_counts(opened, axis=2) == counted(runs[0], worst, 2, 7, 0.3)


def test_classes_have_colours_of_their_own_and_one_for_another_is_an_error(browser, data, tmp_path):
    path, volumes = make_run_of_classes(tmp_path / "run", data)
    opened = open_page(browser, tmp_path, [path])
    (run,) = read_runs([path])
    worst = views.choose([run])[0][0]
    slide(opened, 'input[data-axis="0"]', 4)
    label, predicted = (volume[4] for volume in volumes[worst])
    differ = (label != predicted) & (label != MASKED)
    counts = [np.sum(differ & (predicted > 0)), np.sum(differ & (label > 0))]
    assert shown_counts(opened) == counts and min(counts) > 0
    assert np.sum(differ & (predicted > 0) & (label > 0)) > 0  # counted as both
    keys = opened.browser.execute_script(
        "return [...document.querySelectorAll('#view-classes li')].map((li) => [li.textContent,"
        "getComputedStyle(li, '::before').backgroundColor])"
    )
    assert [name for name, _ in keys] == ["sheet", "crust"]
    assert not opened.find("#threshold").is_displayed()  # the masks are as they were written
    slide(opened, "#strength", 100)
    painted = pixels(opened, "prediction", predicted.shape)
    for number, (_, colour) in enumerate(keys, 1):
        found = painted[predicted == number]
        assert {tuple(pixel) for pixel in found} == {tuple(map(int, re.findall(r"\d+", colour)))}


def pixels(opened, panel, shape):
    """The colours [height, width, 3] of a panel's slice, without the marks over it."""
    before = drawn(opened.browser)
    opened.browser.execute_script("document.querySelector('#crosshair').click()")
    wait_until_drawn(opened.browser, before)
    values, width = opened.browser.execute_script(
        "const c = document.querySelector(arguments[0]);"
        "return [[...c.getContext('2d').getImageData(0, 0, c.width, c.height).data], c.width]",
        f'canvas[data-axis="0"][data-panel="{panel}"]',
    )
    zoom = width // shape[1]
    large = np.reshape(values, (-1, width, 4))
    return large[zoom // 2 :: zoom, zoom // 2 :: zoom, :3]


def test_runs_and_volumes_are_chosen_by_buttons(opened, runs):
    best = views.choose(runs)[-1][0]
    buttons = opened.browser.execute_script(
        "return [...document.querySelectorAll('.choices button')]"
    )
    assert [b.text.split()[0] for b in buttons] == [*(n for n, _ in views.choose(runs)), "a", "b"]
    before = drawn(opened.browser)
    buttons[2].click()
    wait_until_drawn(opened.browser, before)
    before = drawn(opened.browser)
    buttons[4].click()
    wait_until_drawn(opened.browser, before)
    slide(opened, 'input[data-axis="0"]', 9)
    assert shown_counts(opened) == counted(runs[1], best, 0, 9, 0.5)


def test_a_click_in_a_slice_cuts_the_others_there(opened):
    from selenium.webdriver.common.action_chains import ActionChains

    canvas = opened.find('canvas[data-axis="0"][data-panel="image"]')
    opened.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    before = drawn(opened.browser)
    size = canvas.size
    # From its middle a quarter up and an eighth to the right: voxels 5 of height, 12 of width.
    ActionChains(opened.browser).move_to_element_with_offset(
        canvas, size["width"] // 8, -size["height"] // 4
    ).click().perform()
    wait_until_drawn(opened.browser, before)
    assert abs(int(opened.find('output[data-axis="1"]').text.split()[0]) - 5) <= 1
    assert abs(int(opened.find('output[data-axis="2"]').text.split()[0]) - 12) <= 1


def test_table_starts_with_the_worst_and_sorts(opened, runs):
    def column(number):
        return opened.browser.execute_script(
            f"return [...document.querySelectorAll('{VOLUMES} tbody tr')]"
            ".map((row) => row.cells[arguments[0]].textContent)",
            number,
        )

    def click(number):
        opened.browser.execute_script(
            f"document.querySelectorAll('{VOLUMES} th button')[arguments[0]].click()",
            number,
        )

    dices = sorted(s["dice"] for run in runs for s in run.volumes.values())
    assert column(2) == [f"{dice:.4f}" for dice in dices]
    click(2)  # ascending already
    assert column(2) == [f"{dice:.4f}" for dice in dices[::-1]]
    differences = [
        100 * (s["foreground_predicted"] - s["foreground_label"])
        for run in runs
        for s in run.volumes.values()
    ]
    click(9)
    expected = [f"{points:+.2f}".replace("-", "−") for points in sorted(differences)]
    assert column(9) == expected
    click(10)
    voxels = [s["labelled"] for run in runs for s in run.volumes.values()]
    assert column(10) == [str(count) for count in sorted(voxels)]
    click(1)
    assert column(1) == ["v0", "v0", "v1", "v1", "v2", "v2"]


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_nothing_but_tables_is_wider_than_the_window(opened, width):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    opened.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        found = opened.browser.execute_script(
            "const page = document.documentElement;"
            "return [innerWidth, page.scrollWidth - page.clientWidth]"
        )
    finally:
        opened.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert found == [width, 0]


def test_colours_follow_the_system_until_chosen(opened):
    def ground():
        return opened.browser.execute_script(
            "return getComputedStyle(document.body).backgroundColor"
        )

    light = ground()
    button = opened.find("#theme")
    button.click()
    assert ground() == light and button.text == "Colours: light"
    button.click()
    assert ground() != light and button.text == "Colours: dark"


def test_a_chart_reads_out_under_the_pointer(opened):
    from selenium.webdriver.common.action_chains import ActionChains

    chart = opened.find(".chart svg")
    opened.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    ActionChains(opened.browser).move_to_element(chart).perform()
    text = opened.find("#tip").text
    assert text.startswith("epoch ") and "a: validation" in text and "±" in text
