"""Brings an installation to rest: nothing of it changes database, volumes or images any more.

```
API to 0 ──► no Run is admitted ──► what is under way ends ──► workers to 0 ──► registry to 0
```
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from knit_cli.admin.cluster import Cluster
from knit_cli.admin.freezing.record import Part, Parts, Record
from knit_cli.admin.freezing.rest import Rest, UnderWay, look_through
from knit_cli.admin.freezing.scaling import hold, scale, stop
from knit_cli.errors import CliError

LOOKS_EVERY: Final = 5.0
"""Seconds between two looks at what is under way."""

_BESIDE: Final = frozenset({"worker-expander", "worker-backup"})
"""Workers of which no Run and no transfer needs anything."""


@dataclass(frozen=True)
class Freeze:
    """How to freeze. `fail`: Runs with a container are ended as failed, otherwise they finish.

    `by`: who does it. `tell` hears what happens.
    """

    fail: bool
    by: str
    tell: Callable[[str], None]


def begin(cluster: Cluster, by: str) -> tuple[Parts, Record]:
    """Remembers in the cluster how many pods each Deployment has; changes nothing else.

    Of an installation that is frozen already, or half, it gives what was remembered then.

    Raises:
        CliError: knit is not installed there, or what is remembered cannot be understood.
    """
    parts = Parts.find(cluster)
    record = Record.find(cluster)
    if record is None:
        counts = {one.name: one.replicas for one in parts}
        record = Record(datetime.now(UTC).replace(microsecond=0), by, counts).begin(cluster)
    return parts, record.completed(cluster, parts)


def freeze(cluster: Cluster, parts: Parts, record: Record, wishes: Freeze) -> None:
    """Freezes it, after `begin`. Repeated, also after it was killed, it goes on from there.

    Raises:
        CliError: a pod does not end, the database does not answer, or somebody thaws meanwhile.
    """
    # Workers that are up may have begun something, whoever has started them.
    if not record.at_rest or any(one.replicas for one in (*parts.api, *parts.workers)):
        _come_to_rest(cluster, parts, record, wishes)
        record.check_in_force(cluster)
        replace(record, at_rest=True).save(cluster)
    _stop(cluster, record, [*parts.workers, *parts.registry])
    record.check_in_force(cluster)


def _come_to_rest(cluster: Cluster, parts: Parts, record: Record, wishes: Freeze) -> None:
    wishes.tell("the API ends: uploads and downloads are cut")
    _stop(cluster, record, parts.api)
    if not parts.engine.held:
        wishes.tell("no Run is admitted any more")
        _stop(cluster, record, [parts.engine])
        record.check_in_force(cluster)
        hold(cluster, parts.engine)
    with Rest(cluster) as rest:
        while True:
            # What is under way needs these kinds of workers, also one that was at 0 before.
            needed = [one for one in parts.workers if one.component not in _BESIDE]
            counts = {one.name: max(1, record.replicas.get(one.name, 1)) for one in needed}
            record.check_in_force(cluster)
            scale(cluster, needed, counts)
            _wait_for_rest(rest, wishes, lambda: record.check_in_force(cluster))
            wishes.tell("the workers end")
            _stop(cluster, record, parts.workers)
            # One that had been admitted before may have begun at this very moment.
            if not (found := rest.look()):
                return
            wishes.tell(f"{found}; the workers go on")


def _wait_for_rest(rest: Rest, wishes: Freeze, check: Callable[[], None]) -> None:
    """Waits until nothing is under way; `check` raises as soon as the freeze was undone."""
    told = ""
    while found := rest.look(failing_as=wishes.by if wishes.fail else None):
        if found.stopped:
            wishes.tell(f"{found.stopped:,} Runs were ended; they will be failed")
        if str(found) != told:
            told = str(found)
            wishes.tell(f"waits for what is under way. {told}")
        time.sleep(LOOKS_EVERY)
        # Before the next look, which might end Runs that have begun after the thaw.
        check()


def _stop(cluster: Cluster, record: Record, parts: Sequence[Part]) -> None:
    record.check_in_force(cluster)
    stop(cluster, parts)


def foreseen(cluster: Cluster, *, fail: bool) -> list[str]:
    """Says what a freeze would do, and changes nothing; a line per step.

    Raises:
        CliError: knit is not installed there.
    """
    parts, record = Parts.find(cluster), Record.find(cluster)
    lines = []
    if record is not None:
        lines.append(f"{record.by} has begun to freeze it at {record.since.isoformat()}")
    lines += _scaled("API", parts.api, record)
    lines.append("Runs that wait stay as they are: none is admitted")
    try:
        found = look_through(cluster, [*parts.api, *parts.workers])
    except CliError as error:
        found = None
        lines.append(f"what is under way cannot be asked: {error.reason or error.summary}")
    if found is not None:
        lines.append(_fate(found, fail=fail))
    lines += _scaled("worker", parts.workers, record)
    lines += _scaled("registry", parts.registry, record)
    return lines


def _fate(found: UnderWay, *, fail: bool) -> str:
    if not found:
        return str(found)
    return f"{found}: {'they are ended as failed' if fail else 'they are waited for'}"


def _scaled(title: str, parts: Sequence[Part], record: Record | None) -> list[str]:
    known = {} if record is None else record.replicas
    return [
        f"{title} {one.name}: {one.replicas} → 0, "
        f"and {known.get(one.name, one.replicas)} after the thaw"
        for one in parts
    ]
