"""`knit admin freeze` and `thaw`, the whole commands; more in `test_freezing`."""

from __future__ import annotations

import json
import os
import stat
import subprocess

import pytest

from knit_cli.admin.freezing import freeze
from tests.cli.admin.conftest import Admin
from tests.cli.admin.test_prune_audit import migration

pytestmark = pytest.mark.patient  # each starts helm's and kubectl's stand-ins many times

HELD = "KNIT_ENGINE__HOLD"
RECORD = {"since": "2026-01-01T00:00:00+00:00", "by": "mary", "replicas": "{}"}
COUNTS = {"knit-api": 2, "knit-worker-engine": 3, "knit-worker-compute": 1, "registry": 1}


def deployment(release: str, component: str, replicas: int) -> dict:
    labels = {"app.kubernetes.io/component": component}
    pod = {"containers": [{"name": "c", "image": "knit:1", "env": [{"name": "A", "value": "1"}]}]}
    return {
        "metadata": {"annotations": {"meta.helm.sh/release-name": release}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"spec": pod},
        },
    }


@pytest.fixture
def busy(installed: Admin, monkeypatch: pytest.MonkeyPatch) -> Admin:
    """An installation with four Deployments, and one of somebody else."""
    monkeypatch.setattr(freeze, "LOOKS_EVERY", 0)
    tools = installed.tools
    tools.add("Job", "knit-migrate-1", **migration())
    for name, count in COUNTS.items():
        release = "knit-image-registry" if name == "registry" else "knit-app"
        component = "registry" if name == "registry" else name.removeprefix("knit-")
        tools.add("Deployment", name, **deployment(release, component, count))
    tools.add("Deployment", "of-others", **deployment("other", "api", 5))
    tools.say("whoami", json.dumps({"status": {"userInfo": {"username": "mary"}}}))
    return installed


def counts(admin: Admin) -> dict[str, int]:
    found = admin.tools.objects()
    return {name: found[f"deployment/{name}"]["spec"]["replicas"] for name in COUNTS}


def environment(admin: Admin) -> dict[str, str]:
    pod = admin.tools.objects()["deployment/knit-worker-engine"]["spec"]["template"]["spec"]
    return {one["name"]: one["value"] for one in pod["containers"][0]["env"]}


def changes(admin: Admin) -> list[str]:
    """What was scaled, set and asked, in order."""
    found = []
    for _, words, _ in admin.tools.calls("kubectl"):
        if (verb := next((w for w in words if w in ("scale", "set", "exec")), None)) is None:
            continue
        rest = words[words.index(verb) + 1 :]
        if verb == "exec":
            found.append(rest[-1] if rest[-1] == "show" else "fail")
        else:
            found.append(" ".join(one.removeprefix("deployment/") for one in rest).split("=")[0])
    return found


def test_everything_ends_in_order_and_comes_back(busy: Admin) -> None:
    busy.tools.say("under-way.json", json.dumps([{"running": 2}, {"completing": 1}]))
    ended = busy.succeed("freeze")
    assert counts(busy) == dict.fromkeys(COUNTS, 0)
    assert changes(busy) == [
        "knit-api --replicas",
        "knit-worker-engine --replicas",
        f"env knit-worker-engine {HELD}",
        "knit-worker-compute --replicas",
        "knit-worker-engine --replicas",
        *["show"] * 3,
        "knit-worker-compute knit-worker-engine --replicas",
        "show",
        "knit-worker-compute knit-worker-engine registry --replicas",
    ]
    assert "waits for what is under way. Runs under way: 2 running (r1)" in ended.err
    assert environment(busy)["A"] == "1"
    assert HELD in environment(busy)
    assert "pod/knit-freeze" not in busy.tools.objects()
    assert busy.tools.objects()["deployment/of-others"]["spec"]["replicas"] == 5
    status = busy("status", "--json")
    assert status.code == 1
    frozen = json.loads(status.out)["frozen"]
    assert frozen["by"].startswith("mary (")
    assert frozen["replicas"] == COUNTS

    thawed = busy.succeed("thaw")
    assert counts(busy) == COUNTS
    assert HELD not in environment(busy)
    assert "configmap/knit-frozen" not in busy.tools.objects()
    assert "knit is back at work" in thawed.err
    assert "is not frozen" in busy.succeed("thaw").err


def test_a_dry_run_changes_nothing(busy: Admin) -> None:
    before = busy.tools.objects()
    busy.tools.say("under-way.json", json.dumps([{"running": 2}]))
    ended = busy.succeed("freeze", "--fail", "--dry-run")
    lines = ended.out.decode().splitlines()
    assert lines[0] == "API knit-api: 2 → 0, and 2 after the thaw"
    assert "Runs under way: 2 running (r1): they are ended as failed" in lines
    assert busy.tools.objects() == before
    assert not (busy.knit.cwd / "system-unfreeze.sh").exists()
    assert busy.succeed("thaw", "--dry-run").out == b"it is not frozen\n"


def test_the_script_thaws_with_kubectl_alone(busy: Admin) -> None:
    """Also from another folder; it is printed too."""
    ended = busy.succeed("freeze", "--script", "my thaw.sh")
    path = busy.knit.cwd / "my thaw.sh"
    assert ended.out.decode() == path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    variables = {"PATH": f"{busy.tools.folder}:{os.environ['PATH']}"}
    subprocess.run([path], cwd="/", env=variables, check=True, capture_output=True)
    assert counts(busy) == COUNTS
    assert HELD not in environment(busy)
    assert "configmap/knit-frozen" not in busy.tools.objects()


def test_what_it_refuses(busy: Admin, installed: Admin) -> None:
    both = busy("freeze", "--fail", "--wait")
    assert both.code == 1
    assert "--fail and --wait exclude each other" in both.err
    busy.tools.add("ConfigMap", "knit-frozen", data=RECORD)
    refused = busy("install")
    assert refused.code == 1
    assert "is frozen" in refused.err
    assert "knit admin thaw" in refused.err
    busy.succeed("uninstall", "--yes")
    assert "configmap/knit-frozen" not in busy.tools.objects()


def test_where_nothing_is_installed(installed: Admin) -> None:
    ended = installed("freeze")
    assert ended.code == 1
    assert "knit is not installed in namespace knit" in ended.err
    assert not (installed.knit.cwd / "system-unfreeze.sh").exists()
