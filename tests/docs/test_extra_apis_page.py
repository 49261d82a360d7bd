"""The importer of the page and its command run as the page says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from knit_api.extra.endpoints import Endpoint, Endpoints
from knit_cli.config.profile import Profile, save_profile
from knit_workflows.settings.extra_apis import parse_extra_apis
from tests.api.threaded import live_api
from tests.docs.blocks import blocks

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "extra-apis.md"


@pytest.mark.parametrize("block", blocks(PAGE, "yaml"))
def test_each_file_of_the_page_is_valid(block: str) -> None:
    assert len(parse_extra_apis(block.encode(), "page")) == 1


def test_the_table_of_addresses_is_right() -> None:
    lines = PAGE.read_text("utf-8").splitlines()
    rows = [
        [cell.strip(" `") for cell in line.split("|")[1:-1]] for line in lines if "http" in line
    ]
    checked = 0
    for path, proxy_to, request, forwarded in (row for row in rows if len(row) == 4):
        raw_path, _, query = request.partition("?")
        match = Endpoints([Endpoint(path, proxy_to)]).find(raw_path)
        assert match is not None
        assert match.endpoint.forwarded(match.rest, query) == forwarded
        checked += 1
    assert checked == 6


@contextmanager
def importer(home: Path, project: Path, variables: dict[str, str]) -> Iterator[int]:
    """The service of the page, with a folder to import; gives its port."""
    (home / "lab" / "2026-11-28").mkdir(parents=True)
    (home / "lab" / "2026-11-28" / "a.csv").write_text("1,2\n")
    program = home / "importer.py"
    program.write_text(blocks(PAGE, "python")[0])
    command = [sys.executable, program, home / "lab", "0"]
    with subprocess.Popen(
        command, env=variables, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


@pytest.mark.patient
def test_the_importer_of_the_page_and_its_command(tmp_path: Path) -> None:
    project, programs = tmp_path / "project", tmp_path / "bin"
    project.mkdir()
    programs.mkdir()
    extension = programs / "knit-import"
    extension.write_text(blocks(PAGE, "python")[1])
    extension.chmod(0o755)
    python = Path(sys.executable).parent
    variables = {
        **os.environ,
        "HOME": str(tmp_path),
        "NO_PROXY": "*",
        "PATH": f"{programs}:{python}:{os.environ['PATH']}",
    }

    def knit(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["knit", *words],
            env=variables,
            cwd=project,
            capture_output=True,
            text=True,
            check=False,
        )

    with importer(tmp_path, project, variables) as port:
        file = tmp_path / "extra.yaml"
        entry = yaml.safe_load(blocks(PAGE, "yaml")[1])["endpoints"][0]
        entry["proxy_to"] = entry["proxy_to"].replace("8000", str(port))
        file.write_text(yaml.safe_dump({"endpoints": [entry]}))
        with live_api(tmp_path / "volumes", extra_apis=file) as api:
            store = tmp_path / ".knit" / "profile"
            save_profile(Profile(api.root), store=store, name=str(project))
            listed = knit("import")
            assert (listed.returncode, listed.stdout) == (0, "2026-11-28\n"), listed.stderr
            made = knit("import", "2026-11-28")
            assert made.returncode == 0, made.stderr
            data = json.loads(made.stdout)
            assert {"source:lab", "name:2026-11-28"} <= set(data["tags"])
            refused = knit("import", "../secrets")
            assert refused.returncode == 1
            assert "import" in knit("--help").stdout
