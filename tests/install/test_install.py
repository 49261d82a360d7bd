"""What is installed by `pip install .` is whole, and works outside of the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import time
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from knit_workflows.provision.temporal_cli import obtain_temporal
from tests.contract.compute.local_adapters import need_bubblewrap
from tests.e2e.stack import WITHIN, dev_folder
from tests.install.conftest import PACKAGES, ROOT

PLAN = """\
image: host/sh:1
entrypoint: ["sh", "-c", "cat /in/word > /out/word"]
inputs: [{path: /in, tags: ["type:word"]}]
outputs: [{path: /out, tags: ["type:copy"]}]
"""


def test_the_wheel_has_every_file_of_the_packages(wheel: Path) -> None:
    """Programs, SQL, templates, the Go module of Temporal, the mark of types, the charts."""
    there = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    charts = (path for path in (ROOT / "charts").rglob("*") if path.is_file())
    there |= {f"knit_cli/admin/{path.relative_to(ROOT)}" for path in charts}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == there
    assert {Path(name).suffix for name in packed} >= {".py", ".sql", ".mod", ".typed"}


def test_the_installed_knit_says_its_version_and_shows_every_help(fresh: Path) -> None:
    done = knit(fresh, Path("/"), "--version")
    assert done.stdout == f"knit {metadata.version('knit')}\n"
    for noun in ("init", "data", "plan", "run", "admin", "dev"):
        assert "Usage: knit" in knit(fresh, Path("/"), noun, "--help").stdout


def test_the_installed_knit_finds_its_charts(fresh: Path) -> None:
    program = (
        "from knit_cli.admin.charts import ChartSource; print(ChartSource.of(None, None).root)"
    )
    done = subprocess.run([fresh / "python", "-P", "-c", program], capture_output=True, text=True)
    folder = Path(done.stdout.strip())
    assert folder.is_relative_to(fresh.parent), done.stderr
    for chart in (ROOT / "charts").iterdir():
        names = {path.relative_to(chart) for path in chart.rglob("*")}
        assert names == {
            path.relative_to(folder / chart.name) for path in (folder / chart.name).rglob("*")
        }


def test_the_installed_knit_needs_only_what_it_declares(fresh: Path) -> None:
    """Every module can be imported where only the declared packages are, each in its own copy."""
    program = (
        "import importlib, pkgutil, sys\n"
        "for name in sys.argv[1:]:\n"
        "    package = importlib.import_module(name)\n"
        "    assert package.__file__.startswith(sys.prefix), package.__file__\n"
        "    for module in pkgutil.walk_packages(package.__path__, f'{name}.'):\n"
        "        leaf = module.name.rpartition('.')[2]\n"
        "        if leaf not in ('__main__', 'env'):  # these run when imported\n"
        "            importlib.import_module(module.name)\n"
    )
    command = [fresh / "python", "-P", "-W", "ignore", "-c", program, *PACKAGES]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_installed_knit_runs_a_plan_on_its_embedded_stack(fresh: Path) -> None:
    need_bubblewrap()
    temporal = str(obtain_temporal())
    with dev_folder() as folder:
        (folder / "plan.yaml").write_text(PLAN)
        (folder / "data").mkdir()
        (folder / "data" / "word").write_text("hello")
        try:
            knit(fresh, folder, "dev", "up", "--detach", KNIT_TEMPORAL_CLI=temporal)
            knit(fresh, folder, "plan", "apply", "plan.yaml")
            knit(fresh, folder, "data", "push", "--tag", "type:word", "data")
            # Without `--transient` it would be found while its Run still writes it.
            find = ("data", "find", "--tag", "type:copy", "--transient", "no")
            [copy] = found(fresh, folder, *find)
            knit(fresh, folder, "data", "pull", "--extract", copy["knitId"], "results")
            assert (folder / "results" / copy["knitId"] / "word").read_text() == "hello"
        finally:
            knit(fresh, folder, "dev", "down")


def knit(
    fresh: Path, folder: Path, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs the installed command; it sees neither the checkout nor this environment."""
    path = f"{fresh}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    done = subprocess.run(
        [fresh / "knit", *arguments],
        cwd=folder,
        env={"HOME": str(folder), "PATH": path, "LANG": os.environ.get("LANG", "C"), **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WITHIN,
    )
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return done


def found(fresh: Path, folder: Path, *arguments: str) -> list[dict[str, str]]:
    """Asks until there is something."""
    ends = time.monotonic() + WITHIN
    while time.monotonic() < ends:
        documents: list[dict[str, str]] = json.loads(knit(fresh, folder, *arguments).stdout)
        if documents:
            return documents
        time.sleep(0.1)
    raise AssertionError(f"{arguments} found nothing in time")
