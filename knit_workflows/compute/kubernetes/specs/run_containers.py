"""knit's own containers in a run pod; pure functions.

A Plan whose command is known is *supervised*, if it has outputs or a log: a small static program
asks a container of knit's whether outputs and log are empty, then starts the command, and sends its
output to that container, which writes the log. Of other Plans with a log, a container reads the log
from the cluster's API, which loses what the node rotates away meanwhile (decision 0027).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from knit_workflows.compute.base import RunPod
from knit_workflows.compute.kubernetes.api.objects import JsonObject
from knit_workflows.compute.kubernetes.specs.security import knit_container_context
from knit_workflows.domain.plans.model import LOG_PATH
from knit_workflows.domain.volumes import Mount, Volume
from knit_workflows.settings import KubernetesSettings

MAIN: Final = "main"
LOG_SIDECAR: Final = "nurse"
"""Lets `main` start, and writes the log to its volume if there is one."""
CHECK: Final = "init-main"

OUTPUTS_FOLDER: Final = "/outputs"
"""Where knit's containers mount the outputs, each at its path below this folder: the path of one
may exist in their image."""
_PROGRAM: Final = "knit-pod"
_SHARE: Final = "knit"
_TOKEN_FOLDER: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
_TOKEN_VOLUME: Final = "serviceaccount"
_TOKEN_SECONDS: Final = 3600
TOKEN_FILE: Final = "token"


def is_supervised(pod: RunPod, settings: KubernetesSettings) -> bool:
    """Says whether knit's program starts the Plan's command.

    An image's own entrypoint is known to its registry alone, whose credentials knit does not have.
    """
    writes = pod.log is not None or bool(pod.outputs)
    return settings.supervise and writes and bool(pod.entrypoint)


def share_folder(pod: RunPod) -> str:
    """Gives where the two containers meet, at a path that no mountpoint of the Plan touches."""
    taken = [mount.path for mount in (*pod.inputs, *pod.outputs)]
    number = 0
    while True:
        folder = f"/.knit-{number}" if number else "/.knit"
        if not any(f"{path}/".startswith(f"{folder}/") for path in taken):
            return folder
        number += 1


def share_volume() -> JsonObject:
    """Gives the volume of `share_folder`; it ends with its pod."""
    return {"name": _SHARE, "emptyDir": {}}


def log_account(pod: RunPod, settings: KubernetesSettings) -> str | None:
    """Gives the service account of the pod: the Plan's, or that of `log_reader` where there is one.

    Kubernetes makes tokens that expire only for the account of the pod. The Plan's container gets
    no token of `log_reader`'s account.
    """
    reads_log = pod.log is not None and not is_supervised(pod, settings)
    return pod.service_account or (settings.log_service_account if reads_log else None)


def log_token_secret(pod: RunPod) -> str:
    """Gives the name of the Secret with the token of `log_reader`, if the Plan has an account."""
    return f"{pod.name}-log-token"


def token_volume(pod: RunPod) -> JsonObject:
    """Gives the volume with the token of `log_reader`.

    The token is for the API server alone, is valid while the pod is there, at most an hour, and the
    kubelet renews it. Where the Plan has a service account of its own, which need not have the
    right to read logs, it is one that knit asks for (`specs.log_token`).
    """
    token: JsonObject = {
        "serviceAccountToken": {"path": TOKEN_FILE, "expirationSeconds": _TOKEN_SECONDS}
    }
    if pod.service_account is not None:
        items = [{"key": TOKEN_FILE, "path": TOKEN_FILE}]
        token = {"secret": {"name": log_token_secret(pod), "items": items}}
    certificate = {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}
    sources = [token, {"configMap": certificate}]
    return {"name": _TOKEN_VOLUME, "projected": {"sources": sources}}


def supervised(main: JsonObject, pod: RunPod, folder: str) -> JsonObject:
    """Gives the Plan's container with the program in front of its command.

    The program comes from the shared folder, which is read-only here: the image need not have
    anything, and nothing in it can change the program.
    """
    outputs = [literal(mount.path) for mount in pod.outputs]
    verb = "exec" if pod.log is None else "run"
    start = [f"{folder}/{_PROGRAM}", verb, folder, str(len(outputs)), *outputs]
    share = {"name": _SHARE, "mountPath": folder, "readOnly": True}
    return main | {
        "command": [*start, *main["command"]],
        "volumeMounts": [*main["volumeMounts"], share],
    }


def supervisor(
    log: Volume | None, outputs: Sequence[Mount], folder: str, settings: KubernetesSettings
) -> JsonObject:
    """Gives the container that checks that outputs and log are empty, then writes the log.

    Without a log it ends when the command starts. It must be the first one: the kubelet starts
    containers in their order, and the next one only when the hook of the one before has ended. An
    init container would cost a second more, since its end is noticed once a second.
    """
    seen = _below_outputs_folder(outputs)
    words = _paths_and_folders(outputs, seen)
    ready = {"exec": {"command": [_PROGRAM, "ready", folder]}}
    verb = ["admit", folder] if log is None else ["record", folder, LOG_PATH]
    logs = [] if log is None else [Mount(LOG_PATH, log)]
    return _own_container(LOG_SIDECAR, settings) | _static(settings) | {
        "args": [*verb, *map(literal, words)],
        "lifecycle": {"postStart": ready},
        "volumeMounts": [
            *mounts(logs, read_only=False),
            *mounts(seen, read_only=False),  # to let the image's user write to a fresh one
            {"name": _SHARE, "mountPath": folder},
        ],
    }  # fmt: skip


def check_empty(writable: Sequence[Mount], settings: KubernetesSettings) -> JsonObject:
    """Gives the init container that fails unless outputs and log are empty.

    One container for both (Knitfab has another, `init-log`): init containers run one after another,
    and the kubelet takes about a second to notice the end of each.
    """
    seen = _below_outputs_folder(writable)
    return _own_container(CHECK, settings) | _static(settings) | {
        "args": ["check", "--as", *map(literal, _paths_and_folders(writable, seen))],
        "volumeMounts": mounts(seen, read_only=False),
    }  # fmt: skip


def log_reader(log: Volume, outputs: Sequence[Mount], settings: KubernetesSettings) -> JsonObject:
    """Gives the sidecar that reads the log of `main` from the API, with its own service account.

    Afterwards it scans the outputs.
    """
    seen = _below_outputs_folder(outputs)
    pairs = zip(outputs, seen, strict=True)
    folders = {output.path: here.path for output, here in pairs}
    return knit_container(LOG_SIDECAR, "log_sidecar", settings) | {
        "args": [MAIN, f"{LOG_PATH}/log"],
        "env": [
            _from_field("POD_NAME", "metadata.name"),
            _from_field("NAMESPACE", "metadata.namespace"),
            {"name": "OUTPUTS", "value": literal(json.dumps(folders))},
        ],
        "volumeMounts": [
            *mounts([Mount(LOG_PATH, log)], read_only=False),
            *mounts(seen, read_only=True),
            {"name": _TOKEN_VOLUME, "mountPath": _TOKEN_FOLDER, "readOnly": True},
        ],
    }


def knit_container(name: str, program: str, settings: KubernetesSettings) -> JsonObject:
    """Gives a container that runs one of knit's Python programs for pods."""
    return _own_container(name, settings) | {
        "command": ["python3", "-m", f"knit_workflows.pod.{program}"],
        # Unless it is set, no CPU limit: Knitfab's 50m would make Python's start take over 1 s
        # instead of 0.1 s.
        "resources": resources(settings.log_reader_requests, settings.log_reader_limits),
    }


def mounts(wanted: Iterable[Mount], *, read_only: bool) -> list[JsonObject]:
    """Gives volume mounts, one per mount and in their order."""
    # Read-only per mount, not per claim: another pod of knit may mount the same claim read-write.
    return [
        {"name": mount.volume.knit_id, "mountPath": mount.path, "readOnly": read_only}
        for mount in wanted
    ]


def _own_container(name: str, settings: KubernetesSettings) -> JsonObject:
    container: JsonObject = {
        "name": name,
        "image": settings.pod_image,
        "securityContext": knit_container_context(settings),
        # The last output before a failure becomes the message of the Run's exit.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if settings.pod_image_pull_policy is not None:
        container["imagePullPolicy"] = settings.pod_image_pull_policy
    return container


def _static(settings: KubernetesSettings) -> JsonObject:
    return {
        "command": [_PROGRAM],
        "resources": resources(settings.program_requests, settings.program_limits),
    }


def resources(requests: Mapping[str, str], limits: Mapping[str, str]) -> JsonObject:
    """Gives the resources of a container."""
    return {"requests": dict(requests), "limits": dict(limits)}


def _below_outputs_folder(outputs: Sequence[Mount]) -> list[Mount]:
    return [Mount(f"{OUTPUTS_FOLDER}{mount.path}", mount.volume) for mount in outputs]


def _paths_and_folders(outputs: Sequence[Mount], seen: Sequence[Mount]) -> list[str]:
    """Gives the path of each output in the Plan, each before that in a container of knit's."""
    pairs = zip(outputs, seen, strict=True)
    return [word for output, here in pairs for word in (output.path, here.path)]


def _from_field(name: str, path: str) -> JsonObject:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def literal(word: str) -> str:
    """Escapes a word for the kubelet, which expands $(NAME) and turns $$ into $."""
    return word.replace("$", "$$")
