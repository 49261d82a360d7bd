"""Every part of an installation on the real node is taken away while Runs flow, and comes back.

At last Temporal comes back without anything that it knew.

The commands of the runbooks that only look are carried out on the same installation.
"""

from __future__ import annotations

import json
import operator
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from knit_workflows import names
from knit_workflows.provision.cache import SetUpError
from tests.charts.each_once import (
    chains_of,
    each_was_executed_once,
    lineage_is_what_runs_say,
    output_of,
    words_in,
)
from tests.charts.helm import HELMS, Helm, program
from tests.charts.installation import WITHIN, Installation
from tests.charts.installation import installation as the_installation
from tests.charts.lost_temporal import AT_ONCE, Held, lose_temporal
from tests.docs.command_words import commands_of
from tests.docs.test_runbooks import PAGES

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3000)]

RUNS: Final = 30
_UP: Final = Path(__file__).parents[1] / "cluster" / "up.py"
_ELSEWHERE: Final = (
    "database-",
    "image-registry",
    "deployment temporal",
    "top",
    "JOB",
    "port-forward",
)
"""In commands on what this installation does not have, or what does not end by itself."""


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what knit is installed beside."""
    return tmp_path_factory.mktemp("beside")


@pytest.fixture(scope="module")
def installed(beside: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation by one helm: what is shown has nothing to do with its version."""
    done = subprocess.run([sys.executable, str(_UP), "--with-app"], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip((done.stderr.strip() or "tests/cluster/up.py failed").splitlines()[-1])
    try:
        program(HELMS[0])
    except SetUpError as error:
        pytest.skip(str(error))
    helm = Helm(HELMS[0], tmp_path_factory.mktemp(HELMS[0]))
    node = json.loads(done.stdout)
    with the_installation(helm, node, beside) as one:
        # The worker that takes backups is there, too: the runbooks have commands for it.
        one.make_claim("backups")
        one.install(
            *("--set", "settings.KNIT_ENGINE__GC_GRACE_PERIOD=PT5S"),
            *("--set", f"settings.KNIT_ENGINE__MAX_ACTIVE_RUNS_PER_PLAN={AT_ONCE}"),
            *("--set", "backup.enabled=true", "--set", "backup.claim=backups"),
        )
        yield one


class Pushes:
    """Pushes Data one after the other, whatever is away: each until it is there.

    They go on as long as parts are killed, and until there are `RUNS` of them.
    """

    def __init__(self, knit: Installation, kind: str) -> None:
        self.words: dict[str, str] = {}
        self.problem: BaseException | None = None
        self._knit, self._kind = knit, kind
        self._over = threading.Event()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        # A failure inside does not wait for it: what it needs may be away for good.
        thread = threading.Thread(target=self._push_all, daemon=True)
        thread.start()
        yield
        self._over.set()
        thread.join()
        assert self.problem is None, self.problem

    def _push_all(self) -> None:
        try:
            while not self._over.is_set() or len(self.words) < RUNS:
                word = f"word {len(self.words)}"
                self.words[self._pushed(word)] = word
                self._over.wait(4)
        except BaseException as problem:
            self.problem = problem

    def _pushed(self, text: str) -> str:
        """Repeats a push with its key; with another one once it is known to have failed."""
        key, ends = str(uuid.uuid4()), time.monotonic() + WITHIN
        while True:
            try:
                answer = self._knit.sent(f"type:{self._kind}", text, key)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.is_success:
                return str(answer.json()["knitId"])
            if answer is not None and "has failed" in answer.text:
                key = str(uuid.uuid4())
            assert time.monotonic() < ends, "" if answer is None else answer.text
            time.sleep(0.5)


def test_every_part_is_killed_in_turn_and_each_combination_is_there_once(
    installed: Installation, beside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = installed
    plan_id = one.apply("killed", "cp /in/word /out/word; sleep 20")
    second_id = apply_second(one)
    pushes, took = Pushes(one, "killed"), dict[str, float]()
    with pushes.at_work():
        for kill in (every_deployment, every_pod, the_node, the_servers):
            # What is killed is killed in the middle of something.
            one.eventually(lambda: statuses(one, plan_id), lambda seen: "running" in seen)
            began = time.monotonic()
            kill(one)
            took[kill.__name__] = round(time.monotonic() - began)
        held = Held(one)
        lost, seconds = lose_temporal(one, beside / "temporal.db", held, (plan_id, second_id))
        took |= seconds
    began = time.monotonic()
    final = one.ended(plan_id, len(pushes.words))
    second = one.ended(second_id, len(pushes.words))
    let_go = held.ended()
    every = [*final, *second, *let_go]
    took["until all Runs had ended"] = round(time.monotonic() - began)
    with capsys.disabled():
        print(f"\n{len(every)} Runs, {len(lost)} under way as Temporal was lost; seconds: {took}")

    assert {run["status"] for run in every} == {"done"}, every
    assert max(run["generation"] for run in final) > 1  # which the node was drained of
    generations = {run["runId"]: run["generation"] for run in every}
    assert [run for run in lost if run["generation"] != generations[run["runId"]]] == []
    each_was_executed_once(one, every)
    words = pushes.words | held.words
    chains = chains_of(pushes.words, final, second) | chains_of(held.words, let_go)
    lineage_and_content_are_as_wanted(one, words, chains)
    for source, (run, *_) in list(chains.items())[:3]:
        assert one.pulled_word(output_of(run)) == words[source]
    nothing_is_left_over(one)


def apply_second(one: Installation) -> str:
    """Applies a Plan on what the first one makes."""
    plan = {
        "image": one.images["busybox"],
        "entrypoint": ["sh", "-c", "tr a-z A-Z < /in/word > /out/word"],
        "inputs": [{"path": "/in", "tags": ["made-by:killed"]}],
        "outputs": [{"path": "/out", "tags": ["made-by:second"]}],
        "log": {"tags": ["log-of:second"]},
        "resources": {"cpu": "10m", "memory": "32Mi"},
    }
    return str(one.ask("POST", "/api/plans", json=plan)["planId"])


def lineage_and_content_are_as_wanted(
    one: Installation, words: Mapping[str, str], chains: Mapping[str, list[Any]]
) -> None:
    """Of each Data that was pushed, and of all that was made of it."""
    changes: tuple[Callable[[str], str], ...] = (str, str.upper)
    wanted = dict(words)
    for source, runs in chains.items():
        lineage_is_what_runs_say(one, source, runs)
        for run, change in zip(runs, changes, strict=False):
            wanted[output_of(run)] = change(words[source])
    assert words_in(one, wanted) == wanted


def statuses(one: Installation, plan_id: str) -> set[str]:
    return {run["status"] for run in one.runs(plan_id)}


def every_deployment(one: Installation) -> None:
    """To nothing and back, one after the other."""
    for deployment in one.get("deployments")["items"]:
        name = f"deployment/{deployment['metadata']['name']}"
        count = deployment["spec"]["replicas"]
        one.kubectl("scale", name, "--replicas=0")
        selected = deployment["spec"]["selector"]["matchLabels"].items()
        labels = ",".join(f"{key}={value}" for key, value in selected)
        one.kubectl("wait", "--for=delete", "pod", "-l", labels, "--timeout=120s")
        one.kubectl("scale", name, f"--replicas={count}")
        one.kubectl("rollout", "status", name, "--timeout=120s")


def every_pod(one: Installation) -> None:
    """Without a word of warning."""
    for name, uid in one.pods().items():
        one.kubectl("delete", "pod", name, "--grace-period=0", "--force", "--wait=false")
        one.eventually(partial(has_pod, one, uid), operator.not_)
    all_are_up(one)


def has_pod(one: Installation, uid: str) -> bool:
    return uid in one.pods().values()


def the_node(one: Installation) -> None:
    """Drained of all that is knit's, run pods too, whose Runs begin another generation."""
    [node] = one.get("nodes")["items"]
    name = node["metadata"]["name"]
    try:
        for pods in (names.LABEL_RUN, "app.kubernetes.io/name=knit-app"):
            one.kubectl(
                *("drain", name, "--ignore-daemonsets", "--delete-emptydir-data"),
                *("--timeout=90s", f"--pod-selector={pods}"),
            )
    finally:
        one.kubectl("uncordon", name)
    all_are_up(one)


def the_servers(one: Installation) -> None:
    """PostgreSQL and Temporal are killed, and started again; then a standby takes over."""
    for happens in (
        one.beside.restart_postgres,
        one.beside.restart_temporal,
        one.beside.fail_over,
    ):
        happens()
        all_are_up(one)


def all_are_up(one: Installation) -> None:
    """Looks at the pods themselves: a Deployment's status hears later of what has gone."""
    wanted = sum(each["spec"]["replicas"] for each in one.get("deployments")["items"])

    def ready() -> list[str]:
        found = {pod["metadata"]["name"]: pod for pod in one.get("pods")["items"]}
        return [name for name in one.pods() if name in found and is_ready(found[name])]

    one.eventually(ready, lambda names: len(names) == wanted)


def is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", [])
    return {"Ready": "True"}.items() <= {
        each["type"]: each["status"] for each in conditions
    }.items()


def nothing_is_left_over(one: Installation) -> None:
    """No pods or Jobs of Runs or transfers; database, Temporal and volumes agree."""
    verify = ("python3", "-m", "knit_workflows.inspection.verify", "--grace=0")
    ends = time.monotonic() + WITHIN
    while True:
        left = [
            each["metadata"]["name"]
            for label in (names.LABEL_RUN, names.LABEL_AGENT_KNIT_ID)
            for each in one.get("pods,jobs", "-l", label)["items"]
        ]
        told = one.kubectl(
            *("exec", "deployment/knit-worker-compute", "--container", "worker", "--", *verify)
        )
        lines = [json.loads(line) for line in told.splitlines()]
        findings = [line for line in lines if "finding" in line]
        if not left and not findings and "counted" in lines[-1]:
            return
        assert time.monotonic() < ends, (left, lines)
        time.sleep(2)


def looking() -> list[Any]:
    """The commands of kubectl in the runbooks that change nothing."""
    verbs = ("get", "describe", "logs")
    every = {
        tuple(words)
        for page in PAGES
        for words in commands_of(page, "kubectl")
        if words[1:2] and words[1] in verbs
    }
    return sorted(one for one in every if not any(word in " ".join(one) for word in _ELSEWHERE))


def test_the_commands_of_the_runbooks_that_look_are_carried_out(installed: Installation) -> None:
    """As they are in the pages, with names of this installation; each finds something."""
    one = installed
    plan_id = one.apply("looked-at", "cp /in/word /out/word; sleep 600")
    knit_id = one.push("type:looked-at", "word")
    ends = time.monotonic() + WITHIN
    while not (found := [run for run in one.runs(plan_id) if run["status"] == "running"]):
        assert time.monotonic() < ends, one.state()
        time.sleep(0.5)
    run_id = found[0]["runId"]
    [pod] = one.get("pods", "-l", f"{names.LABEL_RUN}={run_id}")["items"]
    values = {
        "RUN_ID": run_id,
        "PLAN_ID": plan_id,
        "KNIT_ID": knit_id,
        "POD": pod["metadata"]["name"],
        "NODE": pod["spec"]["nodeName"],
        "n1": pod["spec"]["nodeName"],
    }
    commands = looking()
    assert len(commands) > 20
    empty = []
    for command in commands:
        words = [word for word in command[1:] if word not in ("-n", "knit")]
        for name, value in values.items():
            words = [
                word.replace(name, value) if name != "n1" else word.replace("=n1", f"={value}")
                for word in words
            ]
        if not one.kubectl(*words).strip():
            empty.append(" ".join(command))
    # No pod waits, nobody transfers, these workers may have had nothing to say lately, and a
    # migration that has succeeded says nothing.
    quiet = ("Pending", "dataagt", "--since", "logs -n knit -l app.kubernetes.io/component=migrate")
    assert [told for told in empty if not any(words in told for words in quiet)] == []
    one.ask("PUT", f"/api/runs/{run_id}/abort")
    one.ended(plan_id, 1)
