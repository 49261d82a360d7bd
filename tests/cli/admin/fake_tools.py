"""A small helm and kubectl: one program that records how it is called and keeps a toy cluster.

A test's folder has a program of each name, which imports this. Everything is in `state` beside it:
`calls.jsonl`, `objects.json` (by `kind/name`), `releases.json`, and files that say how it is to
behave: `fail-NAME` (what helm says instead of installing), `hang-NAME`, `crash-NAME` (objects that
are there while helm waits; it goes on when somebody reads the log of one), `log-POD-CONTAINER`,
`kill-after` (the number of a call, after which `knit` is killed outright),
`under-way.json` (what is under way, look by look), `denied`, `no-cluster`,
`no-namespaces` (nobody may ask for one), `manifest-NAME` (what a release has made, if not knit's).
"""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

STATE = Path(sys.argv[0]).resolve().parent / "state"
KINDS = {
    "secrets": "secret",
    "pods": "pod",
    "jobs": "job",
    "nodes": "node",
    "services": "service",
    "persistentvolumeclaims": "persistentvolumeclaim",
    "deployments": "deployment",
    "statefulsets": "statefulset",
    "events": "event",
    "namespaces": "namespace",
}


def load(name, default):
    path = STATE / name
    return json.loads(path.read_text()) if path.exists() else default


def save(name, value):
    fresh = STATE / f"{name}.new"
    fresh.write_text(json.dumps(value))
    fresh.replace(STATE / name)


def fail(text):
    sys.stderr.write(f"{text}\n")
    sys.exit(1)


def option(words, name, default=None):
    return words[words.index(name) + 1] if name in words else default


def plain(words, valued):
    """The words that are neither flags nor values of these flags."""
    found, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in valued:
            skip = True
        elif not word.startswith("-"):
            found.append(word)
    return found


def matches(item, selector):
    labels = item["metadata"].get("labels", {})
    return all(labels.get(k) == v for k, v in (one.split("=") for one in selector.split(",")))


def kubectl(words, given, namespace):
    if words[:2] == ["config", "view"]:
        if (STATE / "no-context").exists():
            fail("error: current-context must exist in order to minify")
        source = os.environ.get("FAKE_KUBECONFIG_ARGUMENT") or os.environ["KUBECONFIG"]
        sys.stdout.write(Path(source).read_text())
        return
    if (STATE / "no-cluster").exists():
        fail("Unable to connect to the server: dial tcp 10.0.0.1:6443: connect: no route to host")
    objects = load("objects.json", {})
    verb, rest = words[0], words[1:]
    valued = (
        "--output",
        "--selector",
        "--field-manager",
        "--filename",
        "--container",
        "--timeout",
        "--field-selector",
        "--type",
        "--patch",
    )
    names = plain(rest, valued)
    if verb == "version":
        version = {"gitVersion": "v1.34.4", "major": "1", "minor": "34+"}
        print(json.dumps({"serverVersion": load("version.json", version)}))
    elif verb == "get" and "owner=helm" in rest:
        for name, one in load("releases.json", {}).items():
            print(name, one["revision"], one["status"], one["modified"], "2020-01-01T10:00:00Z")
    elif verb == "get":
        if names[0] == "namespace" and (STATE / "no-namespaces").exists():
            fail('Error from server (Forbidden): namespaces "knit" is forbidden')
        if "--ignore-not-found" not in rest or "/".join(names) in objects:
            get(objects, names, option(rest, "--selector"))
    elif verb == "patch":
        objects["/".join(names)]["data"].update(json.loads(option(rest, "--patch"))["data"])
        save("objects.json", objects)
    elif verb == "apply":
        one = json.loads(given)
        if f"namespace/{namespace}" not in objects:
            fail(f'Error from server (NotFound): namespaces "{namespace}" not found')
        one["metadata"]["namespace"] = namespace
        objects[f"{one['kind'].lower()}/{one['metadata']['name']}"] = one
        if one["kind"] == "PersistentVolumeClaim" and not (STATE / "unbound").exists():
            one["status"] = {"phase": "Bound"}
        save("objects.json", objects)
    elif verb == "create" and names[:1] == ["namespace"]:
        objects[f"namespace/{names[1]}"] = {"metadata": {"name": names[1]}}
        save("objects.json", objects)
    elif verb == "create":
        one = json.loads(given)
        if one["kind"] == "ConfigMap":
            key = f"configmap/{one['metadata']['name']}"
            if key in objects:
                fail(f"Error from server (AlreadyExists): {key} already exists")
            save("objects.json", {**objects, key: one})
        elif one["kind"] == "Namespace":
            objects[f"namespace/{one['metadata']['name']}"] = one
            save("objects.json", objects)
        else:
            review(one)
    elif verb == "delete":
        delete(objects, names, option(rest, "--selector"))
    elif verb == "logs":
        (STATE / "logs-read").touch()
        before = "previous-" if "--previous" in rest else ""
        path = STATE / f"{before}log-{names[0]}-{option(rest, '--container')}"
        if not path.exists():
            fail("Error from server (BadRequest): previous terminated container not found")
        sys.stdout.write(path.read_text())
    elif verb == "auth":
        print((STATE / "whoami").read_text() if (STATE / "whoami").exists() else "{}")
    elif verb == "exec" and "knit_workflows.store.audit_pruning" in rest:
        sys.stdout.write((STATE / ("audit-export" if "export" in rest else "removed")).read_text())
    elif verb == "exec" and "knit_workflows.inspection.verify" in rest:
        sys.stdout.write((STATE / "verified").read_text())
    elif verb == "exec" and "knit_workflows.inspection.rebuild" in rest:
        sys.stdout.write((STATE / ("rebuilt" if "--write" in rest else "found")).read_text())
    elif verb == "exec" and "knit_workflows.inspection.status" in rest:
        print((STATE / "inside.json").read_text() if (STATE / "inside.json").exists() else INSIDE)
    elif verb == "exec" and "knit_workflows.operations.quiescence" in rest:
        print(json.dumps(under_way("fail" in rest)))
    elif verb == "scale":
        for one in names:
            objects[one]["spec"]["replicas"] = int(rest[-1].partition("=")[2])
        save("objects.json", objects)
    elif verb == "set":
        set_variable(objects[names[1]], names[2])
        save("objects.json", objects)
    elif verb == "exec":
        now = datetime.now(UTC).isoformat()
        print(json.dumps({"clock": now, **load("examination.json", {})}))


MANIFEST = """---
# Source: chart/templates/one.yaml
kind: Deployment
metadata:
  name: one
  labels:
    app.kubernetes.io/part-of: knit
"""

INSIDE = json.dumps(
    {
        "at": "2026-01-02T03:04:05+00:00",
        "problems": [],
        "runs": [],
        "held_up": [],
        "ended": {"hours": 24, "done": 3, "failed": 0, "failures": []},
        "backlog": {"events": 0, "oldest_event_seconds": 0, "transfers": 0, "discarded": 0},
        "limits": {},
        "workers": [{"role": "engine", "queue": "knit", "workers": 1, "waiting": 0}],
        "versions": {"knit": "0.1.0", "database": "0012"},
        "disk": {"database": 1},
    }
)


def under_way(fails):
    """Says what is under way next: one of the lines of `under-way` after the other."""
    lines = load("under-way.json", [])
    save("under-way.json", lines[1:])
    statuses = lines[0] if lines else {}
    stopped = statuses.get("running", 0) if fails else 0
    return {"statuses": statuses, "runs": ["r1"] if statuses else [], "stopped": stopped}


def set_variable(workload, text):
    container = workload["spec"]["template"]["spec"]["containers"][0]
    name, _, value = text.partition("=")
    kept = [one for one in container.get("env", []) if one["name"] != name.removesuffix("-")]
    container["env"] = kept if name.endswith("-") else [*kept, {"name": name, "value": value}]


def get(objects, names, selector):
    if "/" not in names[0] and len(names) == 2:
        found = objects.get(f"{KINDS.get(names[0], names[0])}/{names[1]}")
        if found is None:
            fail(f'Error from server (NotFound): {names[0]} "{names[1]}" not found')
        print(json.dumps(found))
        return
    kinds = [KINDS[kind] for kind in names[0].split(",")]
    items = [
        one
        for key, one in objects.items()
        if key.partition("/")[0] in kinds and (selector is None or matches(one, selector))
    ]
    print(json.dumps({"kind": "List", "items": items}))


def delete(objects, names, selector):
    if names[0] == "secret" and names[1].startswith("sh.helm.release"):
        releases = load("releases.json", {})
        del releases[names[1].split(".")[4]]
        save("releases.json", releases)
    gone = {f"{names[0]}/{names[1]}"} if len(names) == 2 and "/" not in names[0] else set(names)
    for key, one in list(objects.items()):
        kinds = [KINDS[kind] for kind in names[0].split(",")] if selector else []
        if key not in objects:
            continue
        if key in gone or (key.partition("/")[0] in kinds and matches(one, selector)):
            del objects[key]
            if key.startswith("namespace/"):
                inside = [k for k, v in objects.items() if is_in(v, key.partition("/")[2])]
                for one in inside:
                    del objects[one]
    save("objects.json", objects)


def is_in(item, namespace):
    return item["metadata"].get("namespace") == namespace


def review(asked):
    denied = (STATE / "denied").read_text().split() if (STATE / "denied").exists() else []
    for one in asked["items"]:
        one["status"] = {"allowed": one["spec"]["resourceAttributes"]["resource"] not in denied}
        print(json.dumps(one, indent=4))


def helm(words, given):
    releases = load("releases.json", {})
    verb = words[0]
    valued = ("--values", "--output", "--timeout", "--namespace", "--kubeconfig", "--version")
    names = plain(words[1:], (*valued, "--repo", "--template"))
    if verb == "version":
        print(
            (STATE / "helm-version").read_text() if (STATE / "helm-version").exists() else "v3.22.0"
        )
    elif verb == "list":
        print(
            json.dumps(
                [{"name": n, "chart": f"{n}-0.1.0", "app_version": "0.1.0"} for n in releases]
            )
        )
    elif verb == "get" and names[0] == "manifest":
        if names[1] not in releases:
            fail("Error: release: not found")
        manifest = STATE / f"manifest-{names[1]}"
        print(manifest.read_text() if manifest.exists() else MANIFEST)
    elif verb == "get":
        print(json.dumps(load(f"values-{names[1]}.json", {"component": names[1], "key": "SECRET"})))
    elif verb == "upgrade":
        upgrade(releases, names[0], words, given)
    elif verb == "uninstall":
        if names[0] not in releases:
            fail(f"Error: uninstall: Release not loaded: {names[0]}: release: not found")
        del releases[names[0]]
        save("releases.json", releases)


def upgrade(releases, name, words, given):
    revision = releases.get(name, {}).get("revision", 0) + 1
    now = int(time.time())
    pending = "pending-install" if revision == 1 else "pending-upgrade"
    if releases.get(name, {}).get("status", "").startswith("pending"):
        fail("Error: UPGRADE FAILED: another operation (install/upgrade/rollback) is in progress")
    releases[name] = {"revision": revision, "status": pending, "modified": now}
    save("releases.json", releases)
    if (STATE / f"hang-{name}").exists():
        save("hangs", os.getpid())
        while (STATE / f"hang-{name}").exists():
            time.sleep(0.02)
        os._exit(1)
    if (STATE / f"crash-{name}").exists():
        save("objects.json", {**load("objects.json", {}), **load(f"crash-{name}", {})})
        ends = time.monotonic() + 20
        while not (STATE / "logs-read").exists() and time.monotonic() < ends:
            time.sleep(0.02)
    if (STATE / f"fail-{name}").exists():
        releases[name]["status"] = "failed"
        save("releases.json", releases)
        fail((STATE / f"fail-{name}").read_text())
    releases[name]["status"] = "deployed"
    save("releases.json", releases)
    if (STATE / "no-services").exists():
        return
    if name == "knit-app":
        add_service("knit-api", 30803)
    if name == "knit-image-registry":
        add_service("image-registry", 30503)


def add_service(name, port):
    objects = load("objects.json", {})
    objects[f"service/{name}"] = {
        "metadata": {"name": name},
        "spec": {"ports": [{"nodePort": port}]},
    }
    save("objects.json", objects)


def main():
    tool, words = Path(sys.argv[0]).name, sys.argv[1:]
    given = sys.stdin.read()
    with (STATE / "calls.jsonl").open("a") as file:
        environment = {k: v for k, v in os.environ.items() if "TOKEN" in k or "KEY" in k}
        file.write(json.dumps([tool, words, given, environment]) + "\n")
    if words[:1] == ["--kubeconfig"]:
        os.environ["FAKE_KUBECONFIG_ARGUMENT"] = words[1]
        words = words[2:]
    namespace = None
    if words[:1] == ["--namespace"]:
        namespace, words = words[1], words[2:]
    broken = STATE / f"broken-{tool}-{words[0]}"
    if broken.exists():
        fail("Error: something odd")
    number = len((STATE / "calls.jsonl").read_text().splitlines())
    if tool == "kubectl":
        kubectl(words, given, namespace)
    else:
        helm(words, given)
    if load("kill-after", 0) == number:
        os.kill(os.getppid(), 9)


main()
