"""Logs and outputs of run pods as their containers' images and users are, on a real node."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from knit_workflows.compute.base import Phase
from tests.contract.compute.kubernetes_adapter import KubernetesAdapter, kubernetes_adapter
from tests.contract.compute.pods import OUTPUT, Pods

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
async def adapter() -> AsyncIterator[KubernetesAdapter]:
    """The back-end in a namespace that enforces the baseline standard."""
    async with kubernetes_adapter() as adapter:
        yield adapter


async def test_a_fast_log_is_complete_whatever_the_node_rotates_away(pods: Pods) -> None:
    """Several files of the node's default size in a few seconds, from an image without a thing."""
    line = "x" * 120
    pod = await pods.make(f"yes {line} | head -n 300000", "echo last >&2")
    end = await pods.ran(pod)
    assert (end.phase, end.notes) == (Phase.SUCCEEDED, ())
    log = await pods.file(pod.log, "log")
    assert log.count("\n") == 300_001
    assert log == f"{line}\n" * 300_000 + "last\n"


async def test_a_log_read_from_the_api_is_complete_or_says_what_it_lacks(pods: Pods) -> None:
    """The image's own entrypoint is not known; what is asked for are its arguments.

    What is written in the first three seconds may be rotated away before anybody can read it.
    """
    pod = await pods.make("sleep 4", f"yes {'x' * 120} | head -n 200000", "sleep 3")
    pod = replace(pod, entrypoint=(), args=(*pod.entrypoint, *pod.args))
    end = await pods.ran(pod)
    assert end.phase is Phase.SUCCEEDED
    log = await pods.file(pod.log, "log")
    lines = log.count("\n")
    marked = "[knit: " in log and any(
        "be incomplete" in note or "is incomplete" in note for note in end.notes
    )
    assert lines == 200_000 or marked, (lines, log[-200:], end.notes)


@pytest.mark.parametrize("account", [None, "default"])
async def test_a_log_is_read_with_a_token_that_the_program_does_not_have(
    pods: Pods, account: str | None
) -> None:
    """One that expires: of two kinds, since a Plan may have an account of its own."""
    folder = "/var/run/secrets/kubernetes.io/serviceaccount"
    pod = await pods.make(f"test -e {folder} && echo token || echo none")
    pod = replace(pod, entrypoint=(), args=(*pod.entrypoint, *pod.args), service_account=account)
    end = await pods.ran(pod)
    assert (end.phase, end.notes) == (Phase.SUCCEEDED, ())
    assert await pods.file(pod.log, "log") == ("token\n" if account else "none\n")
    [seen] = await pods.adapter.cluster.pods_of(pod)
    assert not [one for one in seen.spec.volumes if one.secret is not None]
    secrets = await pods.adapter.cluster.secrets_of(pod)
    assert bool(secrets) is (account is not None)
    await pods.backend.release(pod.name)
    await pods.adapter.cluster.until_no_secrets(pod)


async def test_any_user_may_write_to_fresh_outputs(pods: Pods) -> None:
    """Although the storage gives folders that are root's alone; and may read them later."""
    pod = await pods.make("id -u", f"echo mine > {OUTPUT}/x", image=pods.adapter.nobodys_image)
    for mount in pod.outputs:
        (await pods.adapter.cluster.folder(mount.volume)).chmod(0o755)
    end = await pods.ran(pod)
    assert end.phase is Phase.SUCCEEDED, end.exit
    assert await pods.output(pod, "x") == "mine\n"
    assert await pods.file(pod.log, "log") == "65534\n"


async def test_people_see_the_log_with_their_own_tools(pods: Pods) -> None:
    pod = await pods.make("echo said")
    await pods.ran(pod)
    assert await pods.adapter.cluster.log(pod) == "said\n"
