"""The parts beside knit-app are taken away on the real node while Runs flow, and come back.

What `test_killed_on_node` takes away is knit-app's own: there the others are not in the cluster.
"""

from __future__ import annotations

import operator
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from typing import Any, Final

from knit_workflows import names
from knit_workflows.compute.kubernetes.pods.waits import PULLS
from knit_workflows.domain.plans.model import UPLOADED
from tests.charts.administrator import WITHIN, Administrator
from tests.charts.each_once import (
    chains_of,
    each_was_executed_once,
    lineage_is_what_runs_say,
    output_of,
    words_in,
)
from tests.charts.helm import HELMS, Helm
from tests.charts.installation import Installation
from tests.charts.node import Node
from tests.charts.surroundings import Surroundings
from tests.charts.test_killed_on_node import is_ready
from tests.charts.test_parts_on_node import copy_image

RUNS: Final = 10
_PUSHED: Final = "type:spoken"
_REPEATED: Final = "type:repeated"
_SHOUTED: Final = "type:shouted"
_LOG: Final = "type:spoken-log"
_PLAN: Final = """\
image: {image}
entrypoint: ["/bin/sh", "-c", "{script}"]
inputs: [{{path: /in, tags: ["{reads}"]}}]
outputs: [{{path: /out, tags: ["{makes}"]}}]
log: {{tags: ["{log}"]}}
resources: {{cpu: 10m, memory: 32Mi}}
"""
_FINAL: Final = frozenset({"done", "failed"})
_REGISTRY: Final = "image-registry-registry"
_REPOSITORIES: Final = "/var/lib/registry/docker/registry/v2/repositories"


def kill_the_parts(node: Node, admin: Administrator) -> None:
    """Each loses its pod, and is scaled to nothing and back; only two Plans stay of it."""
    one = as_checked(node, admin)
    repository = push_image(node, one)
    before, earlier = restarts(one), {run["runId"] for run in uploads(one)}
    plans, took = [apply_first(node, admin)], dict[str, float]()
    while_away: dict[str, Callable[[], None]] = {
        _REGISTRY: lambda: plans.append(apply_without_image(node, admin, repository)),
        "temporal": partial(is_told, admin, "Temporal does not answer"),
        "database-postgres": partial(is_told, admin, "the database does not answer"),
    }
    pushes = Pushes(admin)
    with pushes.at_work():
        for part, meanwhile in while_away.items():
            began = time.monotonic()
            something_runs(admin, plans)
            delete_its_pod(one, part)
            something_runs(admin, plans)
            scale_down_and_up(one, part, meanwhile)
            took[part] = round(time.monotonic() - began, 1)
    admin.wait_for("status")  # without problems
    # An upload that was cut ends when its client has been silent for a minute.
    one.eventually(partial(uploads, one), lambda runs: all(run["status"] in _FINAL for run in runs))
    pushed = words_pushed(admin)
    assert set(pushes.words) <= set(pushed.values())
    first, second = (one.ended(plan_id, len(pushed)) for plan_id in plans)
    print(f"{len(first) + len(second)} Runs while parts were killed, seconds: {took}")

    assert {run["status"] for run in (*first, *second)} == {"done"}, (first, second)
    each_was_executed_once(one, (*first, *second))
    lineage_and_content_are_as_wanted(one, pushed, chains_of(pushed, first, second))
    admin.verified()
    one.eventually(partial(left_over, one), operator.not_)
    assert restarts(one) == before  # nothing of knit has to be restarted
    forget(one, admin, plans, earlier)
    remove_image(one, repository)


def as_checked(node: Node, admin: Administrator) -> Installation:
    """The same installation as the checks of `each_once` look at it; nothing is beside it."""
    place = admin.namespace
    port = node.get("service", "knit-api", place)["spec"]["ports"][0]["nodePort"]
    return Installation(
        Helm(HELMS[0], admin.home, node.kubeconfig, place),
        node.images,
        Surroundings(node.address, 0, 0, {}, _nothing, _nothing, _nothing),
        admin.variables["KNIT_TOKEN"],
        f"https://{node.address}:{port}",
        (admin.folder / "certs" / "ca.crt").read_text(),
    )


def _nothing() -> None:
    raise AssertionError("all of it is in the cluster")


class Pushes:
    """Pushes one word after the other with `knit`, whatever is away: each until it is there.

    They go on as long as parts are killed, and until there are `RUNS` of them. One that has failed
    may have arrived nevertheless; then it is there twice, which is two Data.
    """

    def __init__(self, admin: Administrator) -> None:
        self.words: list[str] = []
        self._admin = admin
        self._over = threading.Event()
        self._said = ""

    @contextmanager
    def at_work(self) -> Iterator[None]:
        thread = threading.Thread(target=self._push_all)
        thread.start()
        try:
            yield
            self._wait_for_the_last()
        finally:
            self._over.set()
            thread.join()

    def _wait_for_the_last(self) -> None:
        ends = time.monotonic() + WITHIN
        while len(self.words) < RUNS:
            assert time.monotonic() < ends, self._said
            time.sleep(0.5)

    def _push_all(self) -> None:
        while not self._over.is_set():
            word = f"word {len(self.words)}"
            folder = self._admin.home / word
            folder.mkdir(exist_ok=True)
            (folder / "word").write_text(word)
            # The name of the folder becomes a tag, by which it is known again.
            process = self._admin.start("data", "push", "--name", "--tag", _PUSHED, word)
            self._said = "".join(process.communicate())
            if process.returncode == 0:
                self.words.append(word)
            self._over.wait(1)


def uploads(one: Installation) -> list[Any]:
    """A Run for each push: one that has failed left a Data without tags."""
    return [run for run in one.ask("GET", "/api/runs") if run["plan"].get("name") == UPLOADED]


def words_pushed(admin: Administrator) -> dict[str, str]:
    found = admin.json("data", "find", "--tag", _PUSHED, "--transient", "no")
    return {data["knitId"]: name_of(data) for data in found}


def name_of(data: Any) -> str:
    [tag] = [tag for tag in data["tags"] if tag.startswith("name:")]
    return str(tag).partition(":")[2]


def apply_first(node: Node, admin: Administrator) -> str:
    script = "cp /in/word /out/word; sleep 3"
    return apply(admin, node.image("busybox"), script, _PUSHED, _REPEATED)


def apply_without_image(node: Node, admin: Administrator, repository: str) -> str:
    """Applies a Plan on what the first one makes, and waits until a Run misses its image."""
    port = node.get("service", "image-registry", admin.namespace)["spec"]["ports"][0]["nodePort"]
    script = "tr a-z A-Z < /in/word > /out/word; sleep 2"
    image = f"localhost:{port}/{repository}:1"
    plan_id = apply(admin, image, script, _REPEATED, _SHOUTED)
    ends = time.monotonic() + WITHIN
    while not any(map(misses_its_image, runs := starting(admin, plan_id))):
        assert time.monotonic() < ends, runs
        time.sleep(0.5)
    return plan_id


def misses_its_image(run: Any) -> bool:
    return run["status"] == "starting" and run.get("waiting", {}).get("code") in PULLS


def starting(admin: Administrator, plan_id: str) -> list[Any]:
    """Runs that have a pod and do not run yet, with what keeps each from running."""
    listed = admin.json("run", "find", "--planid", plan_id, "--status", "starting")
    return [admin.json("run", "show", run["runId"]) for run in listed]


def apply(admin: Administrator, image: str, script: str, reads: str, makes: str) -> str:
    plan = _PLAN.format(image=image, script=script, reads=reads, makes=makes, log=_LOG)
    (admin.home / "spoken.yaml").write_text(plan)
    return str(admin.json("plan", "apply", "spoken.yaml")["planId"])


def push_image(node: Node, one: Installation) -> str:
    """Puts an image into the registry that no node has under this name; gives its repository."""
    repository = f"spoken-{uuid.uuid4().hex[:8]}"
    with node.forwarded("-n", one.helm.namespace, f"deployment/{_REGISTRY}", ":5000") as registry:
        target = f"{registry}/{repository}:1"
        copy_image(node.image("busybox"), target, "--dest-tls-verify=false")
    return repository


def remove_image(one: Installation, repository: str) -> None:
    """With all that is stored of it, as a backup of images counts that."""
    inside = ("exec", f"deployment/{_REGISTRY}", "--container", "image-registry", "--")
    one.kubectl(*inside, "rm", "-r", f"{_REPOSITORIES}/{repository}")
    one.kubectl(*inside, "sh", "/etc/knit-registry/collect.sh")


def something_runs(admin: Administrator, plans: Iterable[str]) -> None:
    """What is killed is killed in the middle of something."""
    chosen = [word for plan_id in plans for word in ("--planid", plan_id)]
    admin.wait_for("run", "find", *chosen, "--status", "running")


def delete_its_pod(one: Installation, part: str) -> None:
    [gone] = pods(one, part)
    one.kubectl("delete", "pod", gone["metadata"]["name"])
    one.eventually(
        partial(pods, one, part),
        lambda found: [is_ready(pod) for pod in found] == [True] and uid(found[0]) != uid(gone),
    )


def scale_down_and_up(one: Installation, part: str, meanwhile: Callable[[], None]) -> None:
    one.kubectl("scale", f"deployment/{part}", "--replicas=0")
    one.eventually(partial(pods, one, part), operator.not_)
    meanwhile()
    one.kubectl("scale", f"deployment/{part}", "--replicas=1")
    one.eventually(
        partial(pods, one, part), lambda found: [is_ready(pod) for pod in found] == [True]
    )


def pods(one: Installation, part: str) -> list[Any]:
    """Those of a Deployment, also one that is ending."""
    selected = one.get("deployment", part)["spec"]["selector"]["matchLabels"].items()
    labels = ",".join(f"{key}={value}" for key, value in selected)
    return list(one.get("pods", "-l", labels)["items"])


def uid(pod: Any) -> str:
    return str(pod["metadata"]["uid"])


def is_told(admin: Administrator, sentence: str) -> None:
    """Asks `knit status` until it says what is away."""
    ends = time.monotonic() + WITHIN
    while True:
        process = admin.start("status")
        said = "".join(process.communicate())
        if sentence in said:
            assert process.returncode != 0
            return
        assert time.monotonic() < ends, said
        time.sleep(0.5)


def restarts(one: Installation) -> dict[str, list[int]]:
    """How often each container of knit's own pods was started again."""
    own = one.pods()
    found = {pod["metadata"]["name"]: pod["status"] for pod in one.get("pods")["items"]}
    return {
        name: [each["restartCount"] for each in found[name]["containerStatuses"]] for name in own
    }


def lineage_and_content_are_as_wanted(
    one: Installation, pushed: dict[str, str], chains: dict[str, list[Any]]
) -> None:
    """Of each Data that was pushed, and of both that were made of it."""
    wanted = dict(pushed)
    for source, (first, second) in chains.items():
        lineage_is_what_runs_say(one, source, (first, second))
        wanted[output_of(first)] = pushed[source]
        wanted[output_of(second)] = pushed[source].upper()
    assert words_in(one, wanted) == wanted


def left_over(one: Installation) -> list[str]:
    """Pods and Jobs of Runs and transfers."""
    return [
        each["metadata"]["name"]
        for label in (names.LABEL_RUN, names.LABEL_AGENT_KNIT_ID)
        for each in one.get("pods,jobs", "-l", label)["items"]
    ]


def forget(
    one: Installation, admin: Administrator, plans: Sequence[str], earlier: Collection[str]
) -> None:
    """Deletes Runs and their Data, what was made last at first; what is `earlier` stays."""
    for plan_id in reversed(plans):
        admin.knit("plan", "active", "no", plan_id)
        delete(one, [run["runId"] for run in one.runs(plan_id)])
    delete(one, [run["runId"] for run in uploads(one) if run["runId"] not in earlier])
    assert {run["runId"] for run in uploads(one)} == earlier
    for tag in (_PUSHED, _LOG, _REPEATED, _SHOUTED):
        assert admin.json("data", "find", "--tag", tag) == []


def delete(one: Installation, run_ids: Collection[str]) -> None:
    with one.client(Authorization=f"Bearer {one.token}") as client:
        for run_id in run_ids:
            answer = client.delete(f"/api/runs/{run_id}")
            assert answer.status_code == HTTPStatus.NO_CONTENT, answer.text
