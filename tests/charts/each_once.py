"""What the Runs of an installation have executed, made and kept, as the cluster itself tells it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from knit_workflows import names
from tests.charts.installation import WITHIN, Installation

_READER: Final = "reads-every-word"


def executed(one: Installation) -> dict[str, set[str]]:
    """Gives for each Job the pods whose program was started, by their uids.

    The kubelet says so in an event per start, which outlives the pod.
    """
    pods = defaultdict[str, set[str]](set)
    for event in one.get("events", "--field-selector", "reason=Started")["items"]:
        started = event["involvedObject"]
        job = started["name"].rpartition("-")[0]
        if started.get("fieldPath") == "spec.containers{main}" and names.run_of_pod(job):
            pods[job].add(started["uid"])
    return pods


def each_was_executed_once(one: Installation, runs: Iterable[Any]) -> None:
    """In each generation, of which one that was disrupted has several.

    That it was executed at all is what it has made: an event may be lost, as Kubernetes has it.
    """
    pods = executed(one)
    assert {job: uids for job, uids in pods.items() if len(uids) > 1} == {}
    jobs = {names.run_pod(run["runId"], run["generation"]) for run in runs}
    assert len(jobs & pods.keys()) > len(jobs) / 2, (jobs, pods)


def input_of(run: Any) -> str:
    [one] = run["inputs"]
    return str(one["knitId"])


def output_of(run: Any) -> str:
    [one] = run["outputs"]
    return str(one["knitId"])


def chains_of(pushed: Iterable[str], *plans: Sequence[Any]) -> dict[str, list[Any]]:
    """Gives the Runs that follow each Data, one of each Plan, which reads what the last one made.

    Fails unless the Runs of each Plan are just these.
    """
    latest = {knit_id: knit_id for knit_id in pushed}
    chains = {knit_id: list[Any]() for knit_id in latest}
    for runs in plans:
        reading = {input_of(run): run for run in runs}
        assert sorted(map(input_of, runs)) == sorted(latest.values())  # each once
        for source, made in latest.items():
            chains[source].append(reading[made])
            latest[source] = output_of(reading[made])
    return chains


def lineage_is_what_runs_say(one: Installation, source: str, runs: Iterable[Any]) -> None:
    """What came of a Data: these Runs and what they have made, and nothing else."""
    asked = {"downstream": "all", "fields": "ids"}
    told = one.ask("GET", f"/api/data/{source}/lineage", params=asked)
    edges = [(edge["from"], edge["to"], edge["label"]) for edge in told["edges"]]
    assert sorted(edges) == sorted(edge for run in runs for edge in edges_of(run))


def edges_of(run: Any) -> list[tuple[str, str, str]]:
    run_id = run["runId"]
    return [
        *((each["knitId"], run_id, each["path"]) for each in run["inputs"]),
        *((run_id, each["knitId"], each["path"]) for each in run["outputs"]),
        (run_id, run["log"]["knitId"], "(log)"),
    ]


def words_in(one: Installation, knit_ids: Collection[str]) -> dict[str, str]:
    """Gives what is in the file `word` of each Data: one pod reads all of their volumes."""
    one.kubectl("create", "-f", "-", text=json.dumps(_reader(one.images["busybox"], knit_ids)))
    try:
        ended = "--for=jsonpath={.status.phase}=Succeeded"
        one.kubectl("wait", f"pod/{_READER}", ended, f"--timeout={WITHIN - 10:.0f}s")
        lines = one.kubectl("logs", _READER).splitlines()
    finally:
        one.kubectl("delete", "pod", _READER, "--grace-period=1")
    return dict(line.split(" ", 1) for line in lines)


def _reader(image: str, knit_ids: Collection[str]) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": image,
        "command": ["sh", "-c", 'cd /data && for id in *; do echo "$id $(cat "$id/word")"; done'],
        "volumeMounts": [
            {"name": knit_id, "mountPath": f"/data/{knit_id}", "readOnly": True}
            for knit_id in knit_ids
        ],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    user = {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532}
    volumes = [
        {
            "name": knit_id,
            "persistentVolumeClaim": {"claimName": names.volume(knit_id), "readOnly": True},
        }
        for knit_id in knit_ids
    ]
    spec = {
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": volumes,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}, **user},
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": _READER}, "spec": spec}
