"""`knit admin` with a small helm and kubectl in place of the real ones."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from knit_cli.admin import reach
from tests.cli.conftest import Ended, Knit

KUBECONFIG = json.dumps(
    {"apiVersion": "v1", "kind": "Config", "clusters": [{"name": "c", "cluster": {"server": "x"}}]}
)


class Tools:
    """The toy cluster behind the small helm and kubectl, and what they were told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.state.mkdir(parents=True)
        # An imported module is compiled once, a program each of the many times that it is started.
        program = f"""#!{sys.executable} -IS
import sys
sys.path.append({str(Path(__file__).parent)!r})
import fake_tools
"""
        for name in ("helm", "kubectl"):
            (folder / name).write_text(program)
            (folder / name).chmod(0o755)
        self.add_node("10.0.0.7")

    def objects(self) -> dict[str, Any]:
        path = self.state / "objects.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def add(self, kind: str, name: str, **content: Any) -> None:
        metadata = {"name": name, **content.pop("metadata", {})}
        objects = {
            **self.objects(),
            f"{kind.lower()}/{name}": {"kind": kind, "metadata": metadata, **content},
        }
        (self.state / "objects.json").write_text(json.dumps(objects))

    def add_node(self, *addresses: str) -> None:
        listed = [{"type": "InternalIP", "address": one} for one in addresses]
        listed.append({"type": "Hostname", "address": "node"})
        self.add("Node", f"node-{addresses[0]}", status={"addresses": listed})

    def say(self, name: str, text: str = "") -> None:
        (self.state / name).write_text(text)

    def be_quiet(self, name: str) -> None:
        (self.state / name).unlink()

    def releases(self) -> dict[str, Any]:
        path = self.state / "releases.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def set_release(self, name: str, status: str, modified: int | str, revision: int = 1) -> None:
        one = {"revision": revision, "status": status, "modified": modified}
        (self.state / "releases.json").write_text(json.dumps({**self.releases(), name: one}))

    def set_foreign_release(self, name: str) -> None:
        """Has a release that another program's chart of that name has made: Knitfab's."""
        self.set_release(name, "deployed", 1)
        label = "app.kubernetes.io/part-of: knitfab"
        self.say(f"manifest-{name}", f"---\nkind: Service\nmetadata:\n  labels:\n    {label}\n")

    def calls(self, tool: str | None = None) -> list[tuple[str, list[str], str]]:
        path = self.state / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(a, b, c) for a, b, c, _ in map(json.loads, lines) if tool in (None, a)]

    def forget(self) -> None:
        (self.state / "calls.jsonl").unlink(missing_ok=True)


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    """In a folder with a blank in its name."""
    return Tools(tmp_path / "my tools")


class Admin:
    """`knit admin` in a folder with the small tools and a kubeconfig."""

    def __init__(self, knit: Knit, tools: Tools) -> None:
        self.knit = knit
        self.tools = tools
        (knit.home / ".kube").mkdir()
        (knit.home / ".kube" / "config").write_text(KUBECONFIG)
        knit.variables.update(
            HELM=str(tools.folder / "helm"), KUBECTL=str(tools.folder / "kubectl")
        )
        self.folder = knit.cwd / "knit-install-settings"

    def __call__(self, *arguments: str) -> Ended:
        return self.knit("admin", *arguments)

    def succeed(self, *arguments: str) -> Ended:
        ended = self(*arguments)
        assert ended.code == 0, ended.err
        return ended

    def text(self, name: str) -> str:
        return (self.folder / name).read_text()


@pytest.fixture
def admin(bare_knit: Knit, tools: Tools, monkeypatch: pytest.MonkeyPatch) -> Admin:
    """Nobody answers at the addresses of the toy cluster, and nobody waits for that."""
    monkeypatch.setattr(reach, "WITHIN", 0)
    monkeypatch.setattr(reach, "PATIENCE", 0.05)
    return Admin(bare_knit, tools)


@pytest.fixture
def charts(admin: Admin) -> Path:
    """A folder of charts, which the small helm does not look into."""
    folder = admin.knit.cwd / "my charts"
    for name in ("storage-nfs", "certs", "db-postgres", "image-registry", "app", "temporal"):
        (folder / f"knit-{name}").mkdir(parents=True)
    admin.knit.variables["CHART_REPOSITORY_ROOT"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What commands of earlier tests made: each starts a dozen programs."""
    return tmp_path_factory.mktemp("snapshots")


@pytest.fixture
def prepared(admin: Admin, charts: Path, snapshots: Path) -> Admin:
    command = ("prepare", "--temporal", "temporal.example:7233")
    _succeed_once(admin, snapshots / "prepared", command)
    return admin


@pytest.fixture
def installed(prepared: Admin, snapshots: Path) -> Admin:
    _succeed_once(prepared, snapshots / "installed", ("install",))
    prepared.tools.forget()
    return prepared


def _succeed_once(admin: Admin, snapshot: Path, command: tuple[str, ...]) -> None:
    """Gives a test what a command makes, or what it has made for the first that asked."""
    places = {"settings": admin.folder, "state": admin.tools.state}
    if snapshot.exists():
        for name, place in places.items():
            shutil.copytree(snapshot / name, place, dirs_exist_ok=True)
        return
    admin.succeed(*command)
    for name, place in places.items():
        shutil.copytree(place, snapshot / name)
