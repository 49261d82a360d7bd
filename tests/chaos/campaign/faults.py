"""Faults: each hits one thing for a while, and has let go of it when it ends."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from random import Random
from typing import Final, TypeAlias

import psutil

from tests.chaos.campaign.links import Link
from tests.chaos.campaign.parts import Part, PostgresPart, signal_all
from tests.chaos.campaign.site import WORKERS, Site


@dataclass(frozen=True)
class Fault:
    """What is done to what, `at` so many seconds after the batch has begun, for so many seconds."""

    kind: str
    target: str
    at: float
    seconds: float

    def record(self) -> dict[str, object]:
        """Gives it for the record."""
        return asdict(self)


Carrier: TypeAlias = Callable[[Fault], Awaitable[str]]
"""Carries a fault out, from begin to end; gives what it has hit, or nothing if it found nothing."""


@dataclass(frozen=True)
class Kind:
    """One kind of fault: on which targets, how long, and how often beside the others."""

    name: str
    targets: Sequence[str]
    longest: float
    weight: float
    carry_out: Carrier


def drawn(kinds: Sequence[Kind], random: Random, count: int, spread: float) -> list[Fault]:
    """Draws faults, in the order in which they begin."""
    weights = [kind.weight for kind in kinds]
    faults = []
    for kind in random.choices(kinds, weights, k=count):
        target = random.choice(list(kind.targets))
        at, seconds = random.uniform(0, spread), random.uniform(0.1, 1) * kind.longest
        faults.append(Fault(kind.name, target, round(at, 2), round(seconds, 2)))
    return sorted(faults, key=lambda fault: fault.at)


async def carried_out(fault: Fault, kinds: Sequence[Kind]) -> dict[str, object]:
    """Waits for its moment, carries it out, and gives its record with what it has hit."""
    await asyncio.sleep(fault.at)
    [kind] = [one for one in kinds if one.name == fault.kind and fault.target in one.targets]
    return {**fault.record(), "hit": await kind.carry_out(fault)}


_FREEZABLE: Final = (*WORKERS, "api", "postgres", "temporal")
_KILLABLE: Final = (*WORKERS, *WORKERS, "api", "postgres", "temporal")


class CommonFaults:
    """Those that any site has: of its processes, and of the network between them."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def kinds(self) -> list[Kind]:
        """Gives them all."""
        links = list(self._site.links)
        own = [*WORKERS, "api"]
        clocks = (
            [Kind("clock wrong", own, 4.0, 1.5, self._shift)] if self._site.clocks.there else []
        )
        return [
            *clocks,
            Kind("kill -9", _KILLABLE, 1.5, 2, self._kill),
            Kind("kill -9 of a PostgreSQL backend", ["postgres"], 0.1, 1, self._kill_backend),
            Kind("SIGSTOP", _FREEZABLE, 4.0, 4, self._freeze),
            Kind("connections cut", links, 0.1, 3, self._cut),
            Kind("connections reset and refused", links, 2.0, 3, self._reset),
            Kind("connections half-open, then cut", links, 3.0, 3, self._half_open),
            Kind("network stalls", links, 3.0, 3, self._stall),
            Kind("network slow", links, 4.0, 2, self._slow),
        ]

    def _part(self, fault: Fault) -> Part:
        return self._site.parts[fault.target]

    async def _kill(self, fault: Fault) -> str:
        part = self._part(fault)
        async with part.lock:
            await part.kill()
            await asyncio.sleep(fault.seconds)
            await part.start()
        return part.name

    async def _kill_backend(self, fault: Fault) -> str:
        """PostgreSQL then ends all its connections and recovers."""
        part = self._part(fault)
        assert isinstance(part, PostgresPart)
        async with part.lock:
            for backend in part.backends()[-1:]:
                with suppress(psutil.NoSuchProcess):
                    backend.kill()
                    return part.name
        return ""

    async def _freeze(self, fault: Fault) -> str:
        part = self._part(fault)
        async with part.lock:
            signal_all(part, signal.SIGSTOP)
            try:
                await asyncio.sleep(fault.seconds)
            finally:  # or nobody could end it, if the campaign is interrupted
                signal_all(part, signal.SIGCONT)
        return part.name

    async def _shift(self, fault: Fault) -> str:
        """Puts a clock ahead or behind, by seconds up to hours, and then right again."""
        part = self._part(fault)
        async with part.lock:
            ahead = -1 if fault.seconds * 100 % 2 >= 1 else 1
            self._site.clocks.shift(part.name, ahead * int(10 ** (1 + fault.at % 4)))
            await asyncio.sleep(fault.seconds)
            self._site.clocks.shift(part.name, 0)
        return part.name

    def _link(self, fault: Fault) -> Link:
        return self._site.links[fault.target]

    async def _cut(self, fault: Fault) -> str:
        link = self._link(fault)
        hit = link.connections
        link.cut()
        return link.name if hit else ""

    async def _reset(self, fault: Fault) -> str:
        link = self._link(fault)
        link.refuses = True
        link.cut(reset=True)
        await asyncio.sleep(fault.seconds)
        link.refuses = False
        return link.name

    async def _half_open(self, fault: Fault) -> str:
        link = self._link(fault)
        link.swallows = True
        await asyncio.sleep(fault.seconds)
        # Cut before it passes on again, or half a message would reach the other side.
        link.cut()
        link.swallows = False
        return link.name

    async def _stall(self, fault: Fault) -> str:
        link = self._link(fault)
        link.hold()
        await asyncio.sleep(fault.seconds)
        link.let_go()
        return link.name

    async def _slow(self, fault: Fault) -> str:
        link = self._link(fault)
        link.delay = 0.08
        await asyncio.sleep(fault.seconds)
        link.delay = 0.0
        return link.name


@contextmanager
def frozen(pids: Sequence[int]) -> Iterator[None]:
    """Has processes stopped; those that end meanwhile are left alone."""
    known = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            known.append(psutil.Process(pid))
    for one in known:
        with suppress(psutil.NoSuchProcess):
            one.suspend()
    try:
        yield
    finally:
        for one in known:
            with suppress(psutil.NoSuchProcess):
                one.resume()


def kill(pid: int) -> bool:
    """kill -9; says whether there was such a process."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False
