"""Claims that run full are expanded: which, when, by how much, and what is left alone."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import pytest

from knit_workflows.compute.kubernetes.api.server import ApiServer
from knit_workflows.compute.kubernetes.expander import (
    Expander,
    Growth,
    used_bytes,
    wanted_bytes,
    written_claims,
)
from knit_workflows.domain.errors import BackendUnavailable
from tests.waiting import until

GROWTH = Growth(margin=500, delta=3 * 10**9)
G = 10**9
OUT, LOG, IN = (f"data-knitid-{name}" for name in ("out", "log", "in"))


@pytest.mark.parametrize(
    ("used", "capacity", "wanted"),
    [
        (0, 501, None),
        (0, 500, 4 * G),
        (G, G + 500, 5 * G),
        (G, G + 501, None),
        (2 * G, G, 5 * G),  # a file system larger than its claim, as NFS is
        (G, 3 * G - 1, None),
    ],
)
def test_a_claim_grows_when_less_than_the_margin_is_left(used, capacity, wanted):
    """By the delta, rounded up to whole gigabytes, as the contract says."""
    assert wanted_bytes(used, capacity, GROWTH) == wanted


def test_no_claim_grows_beyond_the_most():
    growth = Growth(500, 3 * G, most=6 * G)
    assert wanted_bytes(5 * G, 5 * G, growth) == 6 * G
    assert wanted_bytes(6 * G, 6 * G, growth) is None


METRICS = f"""\
# HELP kubelet_volume_stats_used_bytes [ALPHA] Number of used bytes in the volume
# TYPE kubelet_volume_stats_used_bytes gauge
kubelet_volume_stats_capacity_bytes{{namespace="ns",persistentvolumeclaim="{OUT}"}} 1e+09
kubelet_volume_stats_used_bytes{{namespace="ns",persistentvolumeclaim="{OUT}"}} 9.99e+08
kubelet_volume_stats_used_bytes{{namespace="ns",persistentvolumeclaim="{IN}"}} 1e+09 1700000000000
kubelet_volume_stats_used_bytes{{namespace="ns",persistentvolumeclaim="{LOG}"}} 12
kubelet_volume_stats_used_bytes{{namespace="other",persistentvolumeclaim="{LOG}"}} 1e+09
"""


def test_what_a_kubelet_says_is_read_for_one_namespace():
    assert used_bytes(METRICS, "ns") == {OUT: 999_000_000, IN: G, LOG: 12}
    assert used_bytes("", "ns") == {}


def pod(name: str = "p", node: str | None = "n1", phase: str = "Running") -> dict:
    """One that reads, writes, and writes a claim of others."""
    volumes = {"i": IN, "o": OUT, "l": LOG, "t": "theirs"}
    mounts = [{"name": "i", "readOnly": True}, {"name": "o"}, {"name": "t"}]
    return {
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "knit"}},
        "spec": {
            **({"nodeName": node} if node else {}),
            "containers": [
                {"name": "main", "volumeMounts": mounts},
                {"name": "nurse", "volumeMounts": [{"name": "l", "readOnly": False}]},
            ],
            "volumes": [
                {"name": key, "persistentVolumeClaim": {"claimName": claim}}
                for key, claim in volumes.items()
            ]
            + [{"name": "shm", "emptyDir": {}}],
        },
        "status": {"phase": phase},
    }


def test_only_claims_of_knits_own_that_are_written_to_count():
    assert written_claims([pod()]) == {"n1": {OUT, LOG}}
    assert written_claims([pod(phase="Succeeded"), pod(node=None)]) == {}


def claim(name: str = OUT, storage: str = "1G", **about: object) -> dict:
    requests = {"requests": {"storage": storage}}
    return {
        "metadata": {"name": name, **about},
        "spec": {"resources": requests},
        "status": {"capacity": {"storage": storage}},
    }


@pytest.fixture
async def expander(api, settings):
    server = ApiServer(settings)
    await server.open()
    yield Expander(server, settings.model_copy(update={"expander_margin": "1M"}))
    await server.aclose()


def requested(api) -> str:
    return api.objects["persistentvolumeclaims", OUT]["spec"]["resources"]["requests"]["storage"]


async def test_a_claim_that_runs_full_requests_more_and_once(api, expander):
    api.put("pods", pod())
    api.put("persistentvolumeclaims", claim())
    api.put("persistentvolumeclaims", claim(IN))
    api.metrics["n1"] = METRICS
    assert await expander.look() == [OUT]
    assert requested(api) == str(7 * G)  # 1 GB and 5 GiB, rounded up
    assert await expander.look() == []
    assert api.count("PATCH") == 1


@pytest.mark.parametrize(
    "about",
    [
        {"annotations": {"vex.knitfab/managed": "false"}},
        {"deletionTimestamp": "2026-01-01T00:00:00Z"},
    ],
)
async def test_some_claims_are_left_alone(api, expander, about):
    api.put("pods", pod())
    api.put("persistentvolumeclaims", claim(**about))
    api.metrics["n1"] = METRICS
    assert await expander.look() == []
    assert api.count("PATCH") == 0


async def test_what_is_refused_is_told_once_and_asked_for_again(api, expander, caplog):
    """A quota may have room in the next round."""
    api.put("pods", pod())
    api.put("persistentvolumeclaims", claim())
    api.metrics["n1"] = METRICS
    api.answers_to[f"PATCH persistentvolumeclaims/{OUT}"] = (403, "the class must support resize")
    with caplog.at_level(logging.WARNING):
        assert await expander.look() == []
        assert await expander.look() == []
    assert caplog.text.count("must support resize") == 1
    api.answers_to.clear()
    assert await expander.look() == [OUT]
    assert api.count("PATCH") == 3


async def test_a_claim_that_nobody_writes_to_any_more_is_forgotten(api, expander):
    api.put("pods", pod())
    api.put("persistentvolumeclaims", claim())
    api.metrics["n1"] = METRICS
    api.answers_to[f"PATCH persistentvolumeclaims/{OUT}"] = (403, "the class must support resize")
    await expander.look()
    api.remove("pods", "p")
    await expander.look()
    assert not expander._refused


async def test_a_node_that_does_not_answer_keeps_no_other_from_being_looked_at(api, expander):
    api.put("pods", pod("lost", node="a1"))
    api.put("pods", pod())
    api.put("persistentvolumeclaims", claim())
    api.metrics["n1"] = METRICS
    with pytest.raises(BackendUnavailable, match="gone"):
        await expander.look()
    assert requested(api) == str(7 * G)


async def test_a_node_that_cannot_be_asked_is_named(api, settings, tmp_path):
    nowhere = tmp_path / "nowhere"
    nowhere.write_text(settings.kubeconfig.read_text().replace(api.url, "http://127.0.0.1:9"))
    server = ApiServer(settings.model_copy(update={"kubeconfig": nowhere}))
    await server.open()
    with pytest.raises(BackendUnavailable, match="the node n1 does not answer"):
        await server.node_metrics("n1")
    await server.aclose()


async def test_an_outage_is_told_and_survived(api, settings, expander):
    api.put("pods", pod())
    with pytest.raises(BackendUnavailable, match="not looked yet"):
        await expander.answers()
    expander._settings = expander._settings.model_copy(
        update={"expander_interval": settings.pending_resync_period}
    )
    running = asyncio.create_task(expander.run())
    await until(lambda: "metrics of n1" in api.requests)
    with pytest.raises(BackendUnavailable, match="gone"):
        await until(lambda: "not looked" not in expander._problem)
        await expander.answers()
    api.put("persistentvolumeclaims", claim())
    api.metrics["n1"] = METRICS
    await until(lambda: requested(api) != "1G")
    await until(lambda: not expander._problem)
    await expander.answers()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
