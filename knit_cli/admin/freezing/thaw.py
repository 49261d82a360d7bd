"""Brings a frozen installation back to work, with as many pods as it had."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from knit_cli.admin.cluster import Cluster
from knit_cli.admin.freezing.record import RECORD, Parts, Record
from knit_cli.admin.freezing.scaling import release, scale, wait_until_ready
from knit_cli.errors import CliError


def thaw(cluster: Cluster, *, timeout: str, tell: Callable[[str], None]) -> bool:
    """Thaws it, and waits until everything is ready; False: it is not frozen.

    Repeated, also after it was killed, it goes on from there.

    Raises:
        CliError: something does not become ready in time, somebody freezes it again meanwhile,
            or knit is not installed there.
    """
    record = Record.find(cluster)
    if record is None:
        return False
    parts = Parts.find(cluster)
    # First: a freeze that still waits elsewhere would end what is started here, and one that comes
    # after a thaw that was cut would not wait for what has begun in between.
    replace(record, thawing=True, at_rest=False).save(cluster)
    if gone := sorted(set(record.replicas) - {one.name for one in parts}):
        tell(f"these are gone since the freeze: {', '.join(gone)}")
    for one in parts.workers:
        if one.held:
            release(cluster, one)
    for title, group in (
        ("the registry starts", parts.registry),
        ("the workers start", parts.workers),
        ("the API starts", parts.api),
    ):
        if group:
            tell(title)
            scale(cluster, group, record.replicas)
    wait_until_ready(cluster, parts, timeout=timeout)
    _check_still_thawing(cluster)
    # Last: as long as it is there, a thaw that was cut is repeated.
    cluster.delete("configmap", RECORD)
    return True


def _check_still_thawing(cluster: Cluster) -> None:
    there = Record.find(cluster)
    if there is not None and not there.thawing:
        raise CliError(
            f"the knit in namespace {cluster.namespace} is frozen again",
            reason=f"somebody has gone on with the freeze that {there.by} had begun",
            advice="agree with them; to thaw it all the same, repeat the command",
        )


def foreseen(cluster: Cluster) -> list[str]:
    """Says what a thaw would do, and changes nothing; empty: it is not frozen."""
    record = Record.find(cluster)
    if record is None:
        return []
    return [
        f"{one.name}: {one.replicas} → {record.replicas.get(one.name, one.replicas)}"
        for one in Parts.find(cluster)
    ]
