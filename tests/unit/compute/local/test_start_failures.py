"""What engines say when a container does not start, word for word, and what it means."""

from __future__ import annotations

from dataclasses import replace

import pytest

from knit_workflows.compute.base import Observation, Phase, StartFailureKind
from knit_workflows.compute.local.observing import observation_of
from knit_workflows.compute.local.pod_folder import Account, parse_account
from knit_workflows.compute.local.start_failures import start_failure_of

STARTED = Account(supervisor=(1, 2))
BACKEND, IMAGE, TRANSIENT, PROGRESS = (
    StartFailureKind.BACKEND,
    StartFailureKind.IMAGE,
    StartFailureKind.TRANSIENT,
    StartFailureKind.PROGRESS,
)
FROM = "Error: initializing source docker://127.0.0.1:5000/knit/a:1: "
READ = f"{FROM}reading manifest 1 in 127.0.0.1:5000/knit/a: "
PING = f"{FROM}pinging container registry 127.0.0.1:5000: "

COMPLAINTS = [
    # podman 4.3
    (IMAGE, "ImageNotFound", f"{READ}manifest unknown"),
    (IMAGE, "ImageNotFound", f"{READ}name unknown"),
    (
        IMAGE,
        "ImageNotFound",
        'Error: short-name "a:1" did not resolve to an alias and no unqualified-search registries '
        'are defined in "/etc/containers/registries.conf"',
    ),
    (IMAGE, "ImageDenied", f"{READ}denied"),
    (IMAGE, "ImageDenied", f"{READ}unauthorized"),
    (IMAGE, "InvalidImageName", "Error: repository name must be lowercase"),
    (
        TRANSIENT,
        "RegistryRateLimited",
        f"{READ}toomanyrequests: You have reached your pull rate limit.",
    ),
    (
        TRANSIENT,
        "RegistryUnreachable",
        f"{READ}received unexpected HTTP status: 503 Service Unavailable",
    ),
    (
        TRANSIENT,
        "RegistryUnreachable",
        f'{PING}Get "https://127.0.0.1:5000/v2/": dial tcp 127.0.0.1:5000: connect: '
        "connection refused",
    ),
    (
        TRANSIENT,
        "RegistryUnreachable",
        "Error: initializing source docker://denied.example/a:1: pinging container registry "
        'denied.example: Get "https://denied.example/v2/": dial tcp: lookup denied.example on '
        "10.0.0.53:53: no such host",
    ),
    # a registry called `denied` that does not answer has denied nothing
    (
        TRANSIENT,
        "RegistryUnreachable",
        "Error: initializing source docker://x/denied/notfound:latest: reading manifest latest in "
        "x/denied/notfound: unexpected EOF",
    ),
    (
        TRANSIENT,
        "NoSpaceForImage",
        "Error: writing blob: adding layer with blob: processing tar file(write /usr/lib/x: no "
        "space left on device): exit status 1",
    ),
    (
        BACKEND,
        "BackendUnavailable",
        "Error: unable to connect to Podman socket: Get "
        '"http://d/v4.3.1/libpod/_ping": dial unix /run/podman/podman.sock: connect: no such file '
        "or directory",
    ),
    (
        BACKEND,
        "BackendUnavailable",
        "Error: unable to connect to Podman socket: Get "
        '"http://d/v4.3.1/libpod/_ping": dial unix /run/podman/podman.sock: connect: permission '
        "denied",
    ),
    # docker 28
    (
        BACKEND,
        "BackendUnavailable",
        "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon "
        "running?",
    ),
    (
        BACKEND,
        "BackendUnavailable",
        'error during connect: Get "http://nosuch.invalid:2375/v1.50/images/a:1/json": dial tcp: '
        "lookup nosuch.invalid on 10.0.0.53:53: no such host",
    ),
    (
        BACKEND,
        "BackendUnavailable",
        "permission denied while trying to connect to the Docker daemon socket at "
        'unix:///var/run/docker.sock: Post "http://%2Fvar%2Frun%2Fdocker.sock/v1.50/images/create'
        '?fromImage=docker.io%2Flibrary%2Fa&tag=1": dial unix /var/run/docker.sock: connect: '
        "permission denied",
    ),
    # the shell, of an engine that is gone
    (BACKEND, "BackendUnavailable", "knit-supervisor: 38: /usr/bin/podman: not found"),
    (BACKEND, "BackendUnavailable", "knit-supervisor: 38: /usr/bin/podman: Permission denied"),
    # what nobody has seen yet
    (IMAGE, "ImagePullFailed", "Error: something quite different"),
]


@pytest.mark.parametrize(("kind", "reason", "complaint"), COMPLAINTS)
def test_what_an_engine_says_has_a_kind_and_a_word(
    kind: StartFailureKind, reason: str, complaint: str
) -> None:
    """Its own words follow."""
    failure = start_failure_of(replace(STARTED, pulling="a:1", failure=complaint))
    assert failure is not None
    assert (failure.kind, failure.reason) == (kind, reason)
    assert failure.message.endswith(complaint)


def test_the_count_of_retries_is_no_part_of_the_reason() -> None:
    """Podman counts its own in front of it, and writes a log line around it."""
    seen = {
        start_failure_of(
            replace(
                STARTED,
                failure=f'time="2026-11-29T03:31:3{n}Z" level=warning msg="Failed, retrying in 1s '
                f'... ({n}/3). {FROM}Get \\"https://127.0.0.1:5000/v2/\\": connection refused"',
            )
        )
        for n in range(1, 4)
    }
    [failure] = seen
    assert failure is not None
    words = FROM.removeprefix("Error: ")
    assert failure.message == f'{words}Get "https://127.0.0.1:5000/v2/": connection refused'


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("", None),
        ("pulling a:1\n", (BACKEND, "RegistrySilent")),
        ("pulling a:1\nanswered\n", (PROGRESS, "PullingImage")),
        ("pulling a:1\nfailure manifest unknown\n", (IMAGE, "ImageNotFound")),
        ("pulling a:1\nfailure manifest unknown\nimage sha256:ab\n", None),
        (
            "image sha256:ab\nfailure Cannot connect to the Docker\n",
            (BACKEND, "BackendUnavailable"),
        ),
    ],
)
def test_a_pull_is_told_as_far_as_it_has_come(
    lines: str, told: tuple[StartFailureKind, str] | None
) -> None:
    """A registry that says nothing is none that gives something."""
    failure = start_failure_of(parse_account(f"started 1 2 boot\n{lines}"))
    assert (failure and (failure.kind, failure.reason)) == told
    if failure is not None and "image" not in lines:
        assert failure.message


def test_a_running_container_has_no_failure() -> None:
    """Whatever was said before it started."""
    seen = observation_of(replace(STARTED, failure="manifest unknown", running=True))
    assert seen == Observation(Phase.RUNNING)
