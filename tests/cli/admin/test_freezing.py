"""Freezing and thawing on a toy cluster, killed after every change of it."""

from __future__ import annotations

import json
import os
import pwd
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from knit_cli.admin.audit_pruning import who
from knit_cli.admin.cluster import Cluster, ToolFailed
from knit_cli.admin.freezing import freeze, scaling, thaw
from knit_cli.admin.freezing.record import HOLD, Parts, Record, check_not_frozen
from knit_cli.admin.freezing.script import script
from knit_cli.errors import CliError

COUNTS = {"knit-api": 2, "knit-worker-compute": 0, "knit-worker-engine": 3, "registry": 1}
NONE = dict.fromkeys(COUNTS, 0)
KUBECTL = '$KUBECTL --namespace "$NAMESPACE" '


class Killed(BaseException):
    """Nothing in between may handle it."""


@dataclass(frozen=True)
class Toy(Cluster):
    """Deployments, ConfigMaps and what is under way, look by look, in memory."""

    counts: dict[str, int] = field(default_factory=lambda: dict(COUNTS))
    held: list[str] = field(default_factory=list)
    maps: dict[str, Any] = field(default_factory=dict)
    looks: list[dict[str, int]] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    kill_after: list[int] = field(default_factory=list)
    unready: list[str] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)

    def kubectl(self, *arguments: str, given: str | None = None, into: Any = None) -> str:
        verb, *rest = arguments
        printed = getattr(self, f"_{verb}")(rest, given)
        if verb not in ("get", "exec", "wait", "rollout"):
            self.done.append(" ".join(word for word in arguments if not word.startswith("-")))
            if len(self.done) in self.kill_after:
                raise Killed
        return printed

    def _get(self, rest: list[str], _: str | None) -> str:
        if rest[:2] == ["configmap", "knit-frozen"]:
            if "knit-frozen" not in self.maps:
                raise ToolFailed("kubectl get failed", "Error (NotFound): not found")
            return json.dumps(self.maps["knit-frozen"])
        if rest[0] == "pods":
            left = rest[rest.index("--field-selector") + 1].split(",")
            phases = [one for one in self.phases if f"status.phase!={one}" not in left]
            return json.dumps({"items": [{"status": {"phase": one}} for one in phases]})
        if rest[0] == "jobs":
            container = {"name": "migrate", "image": "knit:1"}
            template = {"metadata": {}, "spec": {"containers": [container]}}
            return json.dumps({"items": [{"metadata": {}, "spec": {"template": template}}]})
        return json.dumps({"items": [self._deployment(name) for name in self.counts]})

    def _deployment(self, name: str) -> dict[str, Any]:
        release = "knit-image-registry" if name == "registry" else "knit-app"
        labels = {"app.kubernetes.io/component": name.removeprefix("knit-")}
        env = [{"name": HOLD, "value": "x"}] if name in self.held else []
        pod = {"containers": [{"name": "c", "env": env}]}
        return {
            "metadata": {"name": name, "annotations": {"meta.helm.sh/release-name": release}},
            "spec": {
                "replicas": self.counts[name],
                "selector": {"matchLabels": labels},
                "template": {"spec": pod},
            },
        }

    def _scale(self, rest: list[str], _: str | None) -> str:
        for one in rest[:-1]:
            self.counts[one.partition("/")[2]] = int(rest[-1].partition("=")[2])
        return ""

    def _set(self, rest: list[str], _: str | None) -> str:
        name = rest[1].partition("/")[2]
        self.held[:] = [] if rest[2].endswith("-") else [name]
        return ""

    def _create(self, _: list[str], given: str | None) -> str:
        if "knit-frozen" in self.maps:
            raise ToolFailed("kubectl create failed", "Error (AlreadyExists)")
        return self._apply([], given)

    def _apply(self, _: list[str], given: str | None) -> str:
        made = json.loads(given or "")
        self.maps[made["metadata"]["name"]] = made
        return ""

    def _patch(self, rest: list[str], _: str | None) -> str:
        assert rest[2:5] == ["--type", "merge", "--patch"]
        self.maps[rest[1]]["data"].update(json.loads(rest[5])["data"])
        return ""

    def _delete(self, rest: list[str], _: str | None) -> str:
        words = [word for word in rest if not word.startswith("-")]
        self.maps.pop(words[1], None)
        return ""

    def _wait(self, *_: object) -> str:
        return ""

    def _rollout(self, rest: list[str], _: str | None) -> str:
        if rest[1] in self.unready:
            raise ToolFailed("kubectl rollout failed", "error: timed out waiting for the condition")
        return ""

    def _auth(self, *_: object) -> str:
        raise ToolFailed("kubectl auth failed", "error: unknown command whoami")

    def _exec(self, rest: list[str], _: str | None) -> str:
        assert self.counts["knit-api"] == 0
        statuses = self.looks.pop(0) if self.looks else {}
        if any(self.counts[name] == 0 for name in ("knit-worker-engine", "knit-worker-compute")):
            assert "show" in rest, "who shall end it?"
        stopped = statuses.get("running", 0) if "fail" in rest else 0
        self.done.append("fail" if "fail" in rest else "show")
        return json.dumps(
            {"statuses": statuses, "runs": ["r1"] * len(statuses), "stopped": stopped}
        )


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freeze, "LOOKS_EVERY", 0)


def toy(*looks: dict[str, int], kill_after: int = 0) -> Toy:
    return Toy(Path("a config"), "knit", {}, looks=list(looks), kill_after=[kill_after])


def frozen(cluster: Toy, *, fail: bool = False, tell: Callable[[str], None] = print) -> str:
    parts, record = freeze.begin(cluster, "mary")
    freeze.freeze(cluster, parts, record, freeze.Freeze(fail=fail, by="mary", tell=tell))
    return script(cluster, parts, record)


def scripted(cluster: Toy, text: str) -> None:
    """Does what the script's lines change; its shell is tried in `test_freeze`."""
    for line in text.splitlines():
        _, found, command = line.partition(KUBECTL)
        if found and not command.startswith("get "):
            cluster.kubectl(*shlex.split(command))


def thawed(cluster: Toy) -> None:
    assert thaw.thaw(cluster, timeout="1m", tell=print)


def thawed_by_script(cluster: Toy) -> None:
    parts, record = freeze.begin(cluster, "john")
    scripted(cluster, script(cluster, parts, record))


@pytest.mark.parametrize("undo", [thawed, thawed_by_script])
@pytest.mark.parametrize("at", ["the API ends", "no Run is", "waits for", "the workers end"])
@pytest.mark.parametrize("fail", [False, True])
def test_a_thaw_while_a_freeze_is_at_work_ends_the_freeze(
    undo: Callable[[Toy], None], at: str, fail: bool
) -> None:
    """Nothing is scaled, ended or remembered any more: Runs may have begun since."""
    cluster = toy({"running": 1}, {"running": 1}, {})

    def tell(text: str) -> None:
        if text.startswith(at):
            undo(cluster)
            cluster.done.clear()

    with pytest.raises(CliError, match="was thawed meanwhile"):
        frozen(cluster, fail=fail, tell=tell)
    assert (cluster.counts, cluster.held, cluster.maps.get("knit-frozen")) == (COUNTS, [], None)
    assert not [one for one in cluster.done if "pod knit-freeze" not in one]


@pytest.mark.parametrize("undo", [thawed, thawed_by_script])
@pytest.mark.parametrize("number", range(1, 5))
def test_a_thaw_that_is_cut_while_a_freeze_waits_ends_the_freeze_too(
    undo: Callable[[Toy], None], number: int
) -> None:
    """After any change of it; what it has started stays, and the next thaw completes it."""
    cluster = toy({"running": 1}, {})
    seen: list[dict[str, int]] = []

    def tell(text: str) -> None:
        if text.startswith("waits for"):
            cluster.kill_after[:] = [len(cluster.done) + number]
            with pytest.raises(Killed):
                undo(cluster)
            cluster.kill_after.clear()
            seen.append(dict(cluster.counts))

    with pytest.raises(CliError, match="was thawed meanwhile"):
        frozen(cluster, tell=tell)
    assert seen == [cluster.counts]
    thawed(cluster)
    assert (cluster.counts, cluster.held) == (COUNTS, [])


def test_a_freeze_while_a_thaw_waits_is_remembered() -> None:
    cluster = toy()
    frozen(cluster)

    def tell(text: str) -> None:
        if text == "the API starts":
            freeze.begin(cluster, "john")

    with pytest.raises(CliError, match="is frozen again"):
        thaw.thaw(cluster, timeout="1m", tell=tell)
    assert Record.find(cluster).replicas == COUNTS  # type: ignore[union-attr]


def test_fail_ends_runs_and_a_run_that_had_just_begun_is_met() -> None:
    said: list[str] = []
    cluster = toy({"running": 2}, {}, {"starting": 1}, {"running": 1}, {})
    frozen(cluster, fail=True, tell=said.append)
    asked = [one for one in cluster.done if one in ("fail", "show")]
    assert asked == ["fail", "fail", "show", "fail", "fail", "show"]
    assert "2 Runs were ended; they will be failed" in said
    assert "Runs under way: 1 starting (r1); the workers go on" in said
    assert cluster.counts == NONE


def test_pods_that_have_ended_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evicted ones stay for days; one that ends, or whose node is lost, may still be at work."""
    monkeypatch.setattr(scaling, "_GONE_WITHIN", 0)
    monkeypatch.setattr(scaling, "_PAUSE", 0)
    cluster = toy()
    cluster.phases.extend(["Failed", "Succeeded"])
    frozen(cluster)
    assert cluster.counts == NONE
    for phase in ("Running", "Pending", "Unknown"):
        cluster = toy()
        cluster.phases.append(phase)
        with pytest.raises(CliError, match=r"pods of .* do not end"):
            frozen(cluster)


def test_workers_of_which_no_run_needs_anything_are_not_started_to_come_to_rest() -> None:
    seen: list[dict[str, int]] = []
    cluster = toy({"running": 1})
    cluster.counts.update({"knit-worker-backup": 0, "knit-worker-expander": 0})
    frozen(
        cluster, tell=lambda told: seen.append(dict(cluster.counts)) if "waits" in told else None
    )
    [meanwhile] = seen
    assert (meanwhile["knit-worker-backup"], meanwhile["knit-worker-expander"]) == (0, 0)


def test_a_second_freeze_keeps_the_first_counts_and_learns_of_new_deployments() -> None:
    cluster = toy()
    text = frozen(cluster)
    cluster.done.clear()
    cluster.counts["knit-worker-hooks"] = 4
    assert f"{text}" != frozen(cluster, fail=True)
    # A new worker has been up: it may have begun something.
    assert "fail" in cluster.done
    assert thaw.thaw(cluster, timeout="1m", tell=print)
    assert cluster.counts == {**COUNTS, "knit-worker-hooks": 4}
    assert not thaw.thaw(cluster, timeout="1m", tell=print)


def test_an_api_that_was_started_again_makes_it_look_again() -> None:
    cluster = toy()
    frozen(cluster)
    cluster.done.clear()
    cluster.counts["knit-api"] = 1
    frozen(cluster)
    assert "show" in cluster.done
    assert cluster.counts == NONE


def test_workers_that_were_started_by_hand_make_it_look_again() -> None:
    cluster = toy()
    frozen(cluster)
    cluster.done.clear()
    cluster.counts["knit-worker-engine"] = 1
    frozen(cluster)
    assert "show" in cluster.done
    assert cluster.counts == NONE


def test_what_is_frozen_and_at_rest_is_not_started_for_another_look() -> None:
    cluster = toy()
    frozen(cluster)
    cluster.done.clear()
    frozen(cluster, fail=True)
    assert not {"fail", "show"} & set(cluster.done)


@pytest.mark.parametrize("undo", [thawed, thawed_by_script])
@pytest.mark.parametrize("number", range(1, 7))
def test_a_freeze_after_a_thaw_that_was_cut_waits_for_what_has_begun_since(
    undo: Callable[[Toy], None], number: int
) -> None:
    cluster = toy()
    frozen(cluster)
    # With workers at 0 nothing can have begun, but whether they were up in between is not known.
    cluster.kill_after[:] = [len(cluster.done) + number]
    with pytest.raises(Killed):
        undo(cluster)
    cluster.kill_after.clear()
    cluster.looks[:] = [{"running": 1}, {}]
    cluster.done.clear()
    said: list[str] = []
    frozen(cluster, tell=said.append)
    assert "waits for what is under way. Runs under way: 1 running (r1)" in said
    assert cluster.counts == NONE
    thawed(cluster)
    assert (cluster.counts, cluster.held) == (COUNTS, [])


def test_both_killed_after_any_change_are_completed_by_the_next() -> None:
    whole = toy({"running": 1})
    frozen(whole)
    for number in range(1, len(whole.done) + 1):
        cluster = toy({"running": 1}, kill_after=number)
        try:
            frozen(cluster)
        except Killed:
            cluster.kill_after.clear()
            frozen(cluster)
        assert cluster.counts == NONE
        assert Record.find(cluster).replicas == COUNTS  # type: ignore[union-attr]
        assert thaw.thaw(cluster, timeout="1m", tell=print)
        assert (cluster.counts, cluster.held) == (COUNTS, [])
    whole.done.clear()
    assert thaw.thaw(whole, timeout="1m", tell=print)
    for number in range(1, len(whole.done)):
        cluster = toy()
        frozen(cluster)
        cluster.kill_after[:] = [len(cluster.done) + number]
        with pytest.raises(Killed):
            thaw.thaw(cluster, timeout="1m", tell=print)
        cluster.kill_after.clear()
        assert thaw.thaw(cluster, timeout="1m", tell=print)
        assert (cluster.counts, cluster.held) == (COUNTS, [])


def test_whoever_has_no_name_is_remembered_by_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in many containers; here the cluster does not know either."""

    def no_entry(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    assert who(toy()) == f"uid {os.getuid()}"


def test_of_two_that_begin_at_once_one_has_counted() -> None:
    cluster = toy()
    first = Record(datetime.now(UTC), "mary", COUNTS).begin(cluster)
    second = Record(datetime.now(UTC), "john", NONE).begin(cluster)
    assert second == first


def test_a_thaw_that_does_not_become_ready_says_what_is_left_to_do() -> None:
    """As after the database has moved: only an `install` mends it, which refuses while frozen."""
    cluster = toy()
    frozen(cluster)
    cluster.unready.append("deployment/knit-api")
    with pytest.raises(CliError) as stuck:
        thawed(cluster)
    assert "does not become ready" in stuck.value.summary
    assert "knit-api" in stuck.value.summary
    assert "timed out waiting" in (stuck.value.reason or "")
    with pytest.raises(CliError) as refused:
        check_not_frozen(cluster)
    for one in (stuck, refused):
        assert "kubectl -n knit delete configmap knit-frozen" in (one.value.advice or "")
    # What was scaled stays, so that nothing but the record is in the way.
    assert cluster.counts == COUNTS
    cluster.unready.clear()
    thawed(cluster)


def test_a_record_that_nobody_understands() -> None:
    cluster = toy()
    frozen(cluster)
    cluster.maps["knit-frozen"]["data"]["replicas"] = "many"
    with pytest.raises(CliError, match="cannot be understood"):
        thaw.thaw(cluster, timeout="1m", tell=print)


def test_the_script_has_the_order_of_a_thaw() -> None:
    cluster = toy()
    text = frozen(cluster)
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("$KUBECTL")]
    assert [line.removeprefix(KUBECTL) for line in lines] == [
        "patch configmap knit-frozen --type merge "
        """--patch '{"data":{"atRest":"false","thawing":"true"}}'""",
        f"set env deployment/knit-worker-engine {HOLD}-",
        "scale deployment/registry --replicas=1",
        "scale deployment/knit-worker-compute --replicas=0",
        "scale deployment/knit-worker-engine --replicas=3",
        "scale deployment/knit-api --replicas=2",
        "delete configmap knit-frozen --ignore-not-found",
    ]
    assert "[ -f 'a config' ]" in text


def test_workers_together_admit_runs_too() -> None:
    cluster = toy()
    del cluster.counts["knit-worker-engine"]
    assert Parts.find(cluster).engine.name == "knit-worker-compute"


def test_workers_that_drain_come_to_rest_too_and_admit_nothing() -> None:
    """The hold is for the version with which Runs begin, whose Deployment has the usual name."""
    cluster = toy()
    cluster.counts["knit-worker-engine-0-1-0"] = 2
    assert Parts.find(cluster).engine.name == "knit-worker-engine"
    frozen(cluster)
    assert cluster.counts == {**NONE, "knit-worker-engine-0-1-0": 0}
    assert thaw.thaw(cluster, timeout="1m", tell=print)
    assert cluster.counts == {**COUNTS, "knit-worker-engine-0-1-0": 2}
