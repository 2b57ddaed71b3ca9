"""JupyterLab as a reader meets it, in a real browser without a window: notebooks run, controls
answer, and what a screen reader is told. ``make browser``; it runs no other way."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from ddim_tutorial import lessons

ROOT = Path(__file__).parents[1]
SCREENSHOTS = ROOT / "build"
LONG, PATIENCE = 900, 180  # seconds for a notebook, for anything else: the machine may be busy
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",  # which Chromium refuses to root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # cells out of sight stay in the page
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
FAILING = """from ddim_tutorial import grids, widgets
import torch

def render(k=1):
    if k > 1:
        raise ValueError("k is too large")
    return grids.image_grid(torch.zeros(1, 1, 4, 4), caption=f"k = {k}")

widgets.explorer(render, k=(0, 2))"""
LIVE = """from ddim_tutorial import widgets, zoo

widgets.live_prompt(zoo.load("emoji", fast=True), "noto emoji of rocke")"""
ERROR = "[data-mime-type='application/vnd.jupyter.error']"
RUN = f"""() => {{
    const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]
    return document.querySelector("{ERROR}")
        || prompts.length && prompts.every(x => /^\\[\\d+\\]/.test(x.textContent))
}}"""
# what a reader sees of an explorer, one entry a change: milliseconds, message, alt text
WATCH = """box => {
    const see = () => {
        const message = box.querySelector('[role=status], [role=alert]')
        const image = box.querySelector('img')
        window.seen.push([performance.now(), message ? message.textContent : '',
                          image ? image.alt : '', image ? image.src : ''])
    }
    window.seen = []
    see()
    new MutationObserver(see).observe(box, {subtree: true, childList: true})
}"""
DONE = """() => {
    const working = window.seen.map(state => /drawing/.test(state[1]))
    return working.includes(true) && !working.at(-1)
}"""

PLAYWRIGHT = importlib.util.find_spec("playwright")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(2 * LONG),
    pytest.mark.skipif(not PLAYWRIGHT, reason="no playwright: pip install -e '.[browser]'"),
    pytest.mark.skipif(not CHROMIUM, reason="no chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """JupyterLab as ``python -m ddim_tutorial lab`` starts it, on copies without outputs."""
    home = tmp_path_factory.mktemp("lab")
    lessons.copy(home / "notebooks")
    for path in (home / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, path)
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    for name, source in (("failing", FAILING), ("live", LIVE)):
        notebook = new_notebook(cells=[new_code_cell(source)], metadata=kernel)
        nbformat.write(notebook, home / "notebooks" / f"{name}.ipynb")
    for name, values in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    folders = {"CONFIG_DIR": "config", "DATA_DIR": "data", "RUNTIME_DIR": "runtime"}
    environment = os.environ | {f"JUPYTER_{key}": str(home / x) for key, x in folders.items()}
    environment |= {
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "plugins")]),
    }
    options = ["--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0"]
    with open(home / "log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "ddim_tutorial", "lab", str(home / "notebooks"), *options],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield wait_for_server(server, home)
    finally:
        server.terminate()
        server.wait(60)


def wait_for_server(server: subprocess.Popen, home: Path) -> str:
    """The address of a notebook of the server, with a place for its name."""
    end = time.monotonic() + PATIENCE
    while server.poll() is None and time.monotonic() < end:
        for path in (home / "runtime").glob(f"jpserver-{server.pid}.json"):
            info = json.loads(path.read_text() or "{}")
            if info:
                return f"{info['url']}lab/tree/{{}}.ipynb?token={info['token']}&reset"
        time.sleep(0.5)
    pytest.fail((home / "log").read_text()[-2000:])


@pytest.fixture
def open_notebook(address, tmp_path):
    """Opens a copy, runs all its cells, and returns its panel; the console must hold no error."""
    from playwright.sync_api import sync_playwright

    errors = []
    with sync_playwright() as started:
        browser = started.chromium.launch_persistent_context(
            tmp_path / "profile",
            executable_path=CHROMIUM,
            args=FLAGS,
            viewport={"width": 1400, "height": 1000},
        )
        page = browser.pages[0]
        page.set_default_timeout(PATIENCE * 1000)
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))

        def open_and_run(name: str):
            page.goto(address.format(name))
            panel = page.locator(".jp-NotebookPanel:visible")
            page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
            page.wait_for_function(RUN, timeout=LONG * 1000)
            assert panel.locator(ERROR).all_text_contents() == []
            return panel

        yield open_and_run
        browser.close()
    assert errors == []


def explorer_of(panel):
    """The panel's only explorer, in sight, with its picture."""
    box = panel.locator(".widget-vbox")
    box.locator("img").wait_for()
    box.scroll_into_view_if_needed()
    return box


def row(box, name: str):
    """The control with this label."""
    label = f".widget-label:text-is('{name}')"
    return box.locator(".widget-inline-hbox", has=box.page.locator(label))


def settings(box) -> dict[str, str]:
    """What the controls stand at, as a reader sees it."""
    rows = box.locator(".widget-inline-hbox:has(.widget-readout, input, select)")
    return rows.evaluate_all("""rows => Object.fromEntries(rows.map(row => {
        const input = row.querySelector('input')
        const text = row.querySelector('option:checked, .widget-readout')
        const label = row.querySelector('.widget-label').textContent
        return [label, input ? input.value : text.textContent.replace(/\\s/g, ' ')]
    }))""")


def changes(box, act) -> list[tuple[float, str, str, str]]:
    """Everything that is seen from ``act()`` on until the work is done: (milliseconds, message,
    alt text, picture), each state once."""
    box.evaluate(WATCH)
    act()
    box.page.wait_for_function(DONE)
    states = box.page.evaluate("window.seen")
    return [b for a, b in zip([[None] * 4, *states], states, strict=False) if a[1:] != b[1:]]


def told(states) -> None:
    """Print when what was seen, in seconds from the sign of work on."""
    start = next(moment for moment, message, *_ in states if message)
    for moment, message, alt, _ in states:
        print(f"{(moment - start) / 1000:7.2f} s  {message or '-':60}  {alt[:60]}")


def assert_fits(box) -> None:
    """The picture stands at its own size and has an alt text that a screen reader is told."""
    image = box.locator("img")
    natural, seen = image.evaluate("x => [[x.naturalWidth, x.naturalHeight], [x.width, x.height]]")
    assert seen == natural and min(seen) > 100
    alt = image.get_attribute("alt")
    assert alt and box.get_by_role("img", name=alt, exact=True).count() == 1


def assert_sentences_are_told(panel, name: str) -> None:
    """Below each picture of a cell stands the sentence that describes it, for every reader."""
    page_text = " ".join(panel.aria_snapshot().split())
    notebook = nbformat.read(lessons.folder() / f"{name}.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    alts = [
        output.metadata["image/png"]["alt"]
        for output in outputs
        if "image/png" in output.get("data", {}) and len(output.data) == 2
    ]
    plain = [alt for alt in alts if not set(alt) & set("$`*_\"'")]  # no mathematics, no quotes
    assert plain
    for alt in plain:
        assert " ".join(alt.split()) in page_text


def test_the_first_notebook(open_notebook):
    panel = open_notebook("00_start_here")
    box = explorer_of(panel)
    assert settings(box) == {
        "t": "500", "S": "50", "eta": "0.00", "scale": "1.00", "label": "Ankle boot", "seed": "0"
    }  # fmt: skip
    assert_fits(box)
    assert_sentences_are_told(panel, "00_start_here")
    slider = row(box, "seed").get_by_role("slider")
    states = changes(box, lambda: slider.press("ArrowRight"))
    told(states)
    assert settings(box)["seed"] == "1"
    assert "drawing" in states[1][1] and states[1][3] == states[0][3] != states[-1][3]
    assert states[-1][1] == ""
    states = changes(box, lambda: row(box, "t").get_by_role("slider").press("Home"))
    assert "t = 20;" in states[-1][2]  # its alt text follows
    assert_fits(box)
    SCREENSHOTS.mkdir(exist_ok=True)
    box.page.screenshot(path=SCREENSHOTS / "browser_00.png")


def test_the_prompt_box(open_notebook):
    panel = open_notebook("05_latent_jump")
    box = explorer_of(panel)
    given = "image of rocket"
    assert settings(box) == {
        "t": "500", "prompt": given, "S": "25", "scale": "7.50", "seed": "1"
    }  # fmt: skip
    assert_fits(box)
    assert_sentences_are_told(panel, "05_latent_jump")
    prompt = box.get_by_role("textbox", name="prompt")
    prompt.fill("image of penguin")
    states = changes(box, lambda: prompt.press("Enter"))
    told(states)
    pictures = list(dict.fromkeys(picture for *_, picture in states))
    assert len(pictures) == 3  # the rocket, a draft, the penguin
    drafts = [state for state in states if "draft" in state[1]]
    assert drafts[0][3] == pictures[1]
    box.page.screenshot(path=SCREENSHOTS / "browser_05.png")
    prompt.fill("image of penguin " * 40)
    changes(box, lambda: prompt.press("Enter"))
    assert "cut: " in box.get_by_role("alert").text_content()
    prompt.fill("image of penguin")
    states = changes(box, lambda: prompt.press("Enter"))
    assert states[-1][3] == pictures[2] and states[-1][1] == ""


def test_a_picture_follows_the_typing(open_notebook):
    """Without Enter, at a pause of the keys."""
    box = explorer_of(open_notebook("live"))
    assert settings(box) == {"prompt": "noto emoji of rocke", "steps": "2", "seed": "0"}
    assert_fits(box)
    prompt = box.get_by_role("textbox", name="prompt")
    prompt.press("End")
    first = box.locator("img").get_attribute("src")
    states = changes(box, lambda: prompt.press("t"))
    told(states)
    second = states[-1][3]
    assert second != first and states[-1][1] == "" and "rocket" in states[-1][2]
    states = changes(box, lambda: row(box, "seed").get_by_role("slider").press("ArrowRight"))
    assert states[-1][3] != second
    box.page.screenshot(path=SCREENSHOTS / "browser_live.png")


def test_an_error_is_told_where_the_picture_was(open_notebook):
    box = explorer_of(open_notebook("failing"))
    assert_fits(box)
    slider = row(box, "k").get_by_role("slider")
    changes(box, lambda: slider.press("ArrowRight"))
    assert box.get_by_role("alert").text_content() == "k is too large"
    assert box.locator("img:visible").count() == 0
    changes(box, lambda: slider.press("ArrowLeft"))
    assert box.get_by_role("alert").count() == 0
    assert box.get_by_role("img", name="k = 1", exact=True).count() == 1
