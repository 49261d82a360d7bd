"""Photographs a Run's page in Temporal's Web UI: `python tools/captures/web_ui.py`.

Runs the demo on a stack of its own, then opens the page of its longest Run in a real browser, once
for each picture. Needs `selenium`, Chromium and its driver, which knit itself does not: run it with
a Python that has selenium, and name knit's own with `--python`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
IMAGES: Final = ROOT / "docs" / "images"
DRIVER: Final = "/usr/bin/chromedriver"
WIDTH: Final = 1280
HEIGHT: Final = 1060
RENDERS_WITHIN: Final = 60.0
SETTLES_AFTER: Final = 3.0
"""Seconds for fonts, the time line and the frames of rendered Markdown."""
TEXT: Final = "return document.body ? document.body.innerText : ''"


@dataclass(frozen=True)
class Picture:
    """One tab of a Run's page, and what must be on it before it is photographed."""

    name: str
    tab: str
    wanted: tuple[str, ...]


PICTURES: Final = (
    Picture("web-ui.png", "history", ("until the container has ended", "commit the lineage")),
    Picture("web-ui-details.png", "user-metadata", ("Current Details",)),
)


@contextmanager
def demo_stack(python: str) -> Iterator[str]:
    """Runs the demo in an empty folder that is its home, too; gives the Web UI's address."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        environment = {**os.environ, "HOME": folder}

        def run(*words: str) -> str:
            command = [python, *words]
            done = subprocess.run(
                command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
            )
            return done.stdout

        try:
            run(str(ROOT / "examples" / "iris" / "demo.py"))
            yield str(json.loads(run("-m", "knit_cli", "dev", "status", "--json"))["webUi"])
        finally:
            run("-m", "knit_cli", "dev", "down")


def page_of_a_run(web_ui: str) -> str:
    """Gives the address of the page of the `knit.Run` that took longest."""
    query = urllib.parse.urlencode({"query": "WorkflowType = 'knit.Run'"})
    with urllib.request.urlopen(f"{web_ui}/api/v1/namespaces/default/workflows?{query}") as answer:
        found = json.load(answer)["executions"]
    ended = [one for one in found if "executionDuration" in one]
    longest = max(ended, key=lambda one: float(one["executionDuration"].removesuffix("s")))
    ids = longest["execution"]
    workflow = urllib.parse.quote(ids["workflowId"], safe="")
    return f"{web_ui}/namespaces/default/workflows/{workflow}/{ids['runId']}"


@contextmanager
def browser() -> Iterator[Any]:
    """Starts a browser without a window."""
    webdriver: Any = import_module("selenium.webdriver")  # not among knit's own requirements
    options = webdriver.ChromeOptions()
    options.page_load_strategy = "none"  # the page keeps a connection open: it never ends loading
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(word)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        yield driver
    finally:
        driver.quit()


def photograph(driver: Any, page: str, picture: Picture, folder: Path) -> None:
    """Opens the tab, waits until it shows what is wanted, and keeps the picture.

    Raises RuntimeError, with what is there, when that does not happen.
    """
    driver.get(f"{page}/{picture.tab}")
    ends = time.monotonic() + RENDERS_WITHIN
    while True:
        text = str(driver.execute_script(TEXT))
        missing = [words for words in picture.wanted if words not in text]
        if not missing:
            break
        if time.monotonic() > ends:
            raise RuntimeError(f"{missing} are not on the page, which says:\n{text}")
        time.sleep(0.5)
    time.sleep(SETTLES_AFTER)
    output = folder / picture.name
    driver.save_screenshot(str(output))
    print(f"{output}: {output.stat().st_size / 1024:.0f} KiB")


def take_all(web_ui: str, folder: Path) -> None:
    """Takes every picture of the longest Run of that stack."""
    page = page_of_a_run(web_ui)
    with browser() as driver:
        for picture in PICTURES:
            photograph(driver, page, picture, folder)


def main() -> None:
    """Takes the pictures, on a stack of their own or on one that runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=str(ROOT / ".venv" / "bin" / "python"))
    parser.add_argument("--web-ui", help="address of a stack on which the demo is done")
    parser.add_argument("--folder", type=Path, default=IMAGES)
    options = parser.parse_args()
    if options.web_ui:
        take_all(options.web_ui, options.folder)
        return
    with demo_stack(options.python) as web_ui:
        take_all(web_ui, options.folder)


if __name__ == "__main__":
    main()
