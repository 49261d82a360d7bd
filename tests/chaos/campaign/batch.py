"""One batch: work and faults side by side, then recovery, rest, and a look at everything."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Protocol

from tests.chaos.campaign import invariants
from tests.chaos.campaign.faults import CommonFaults, Fault, Kind, carried_out, drawn
from tests.chaos.campaign.invariants import Compute, Ledger
from tests.chaos.campaign.site import Site
from tests.chaos.campaign.work import KINDS, Workload

MOST_FAULTS: Final = 80
_HOOKS: Final = 0.6
"""Of all batches, so many are carried out under hooks."""
_ID: Final = re.compile(r"Run \{?\"?(?:run_id\": \")?([0-9a-f-]{36})")


class Backend(Compute, Protocol):
    """A back-end of a campaign: seen from outside, and with faults of its own."""

    image: str

    def kinds(self, site: Site, ledger: Ledger, random: Random) -> list[Kind]:
        """Gives the faults that only this back-end has."""
        ...

    async def relieve(self, site: Site, ledger: Ledger) -> None:
        """Does, again and again, what a user does about Runs that wait for what a fault has taken.

        None of them may wait without saying for what.
        """
        ...


@dataclass
class Campaign:
    """What one campaign does to one site."""

    site: Site
    backend: Backend
    work: Workload
    seed: int
    name: str
    """Of the back-end: local or node."""
    pushes: int = 14
    """How many uploads begin in a batch."""
    spread: float = 20.0
    """Seconds within which all of a batch begins."""
    ledger: Ledger = field(default_factory=Ledger)

    async def batch(
        self, number: int, most: int = MOST_FAULTS, hooks: bool | None = None
    ) -> dict[str, Any]:
        """Carries out one; gives its record, with the violations in words.

        Whether hooks are in force is drawn, too, unless `hooks` says so.
        """
        random = Random(f"{self.seed}:{number}")
        begun = time.monotonic()
        calls, pulls = len(self.site.hooks.calls), self.work.pulls
        runs = (await self.site.ask("SELECT count(*) AS runs FROM run"))[0]["runs"]
        drawn_hooks = random.random() < _HOOKS
        await self.site.call_hooks(drawn_hooks if hooks is None else hooks)
        common = CommonFaults(self.site).kinds()
        kinds = [*common, *self.backend.kinds(self.site, self.ledger, random)]
        count = min(most, random.randint(MOST_FAULTS - 4, MOST_FAULTS))
        faults = drawn(kinds, random, count, self.spread)
        pushed = random.choices(list(KINDS), k=self.pushes)
        relieving = asyncio.create_task(self._relieving())
        try:
            done = await self._disturbed(faults, kinds, pushed, random)
            unrest, found = await self._at_rest()
        finally:
            relieving.cancel()
            await asyncio.wait({relieving})
        violations = [f"never comes to rest: {one}" for one in unrest]
        violations += await invariants.check(self.site, self.work, self.ledger, found)
        violations += invariants.wrong_logs(self.work, self.ledger)
        violations += self._said_at_the_end()
        made = (await self.site.ask("SELECT count(*) AS runs FROM run"))[0]["runs"] - runs
        return {
            "on": self.name,
            "seed": self.seed,
            "batch": number,
            "faults": done,
            "hooks": self.site.calls_hooks,
            "runs": made,
            "uploads": len(pushed),
            "downloads": self.work.pulls - pulls,
            "hook_calls": len(self.site.hooks.calls) - calls,
            "seconds": round(time.monotonic() - begun, 1),
            "violations": violations,
            "evidence": await self._evidence(violations),
        }

    async def _disturbed(
        self, faults: Sequence[Fault], kinds: Sequence[Kind], pushed: Sequence[str], random: Random
    ) -> list[dict[str, object]]:
        """Has work flow while the faults are carried out, and everything recover."""
        flowing = asyncio.create_task(self.work.flow(pushed, random, self.spread))
        done = await asyncio.gather(*(carried_out(one, kinds) for one in faults))
        await self.site.recovered()
        await flowing
        return done

    async def _relieving(self) -> None:
        while True:
            await self.backend.relieve(self.site, self.ledger)
            await asyncio.sleep(1)

    async def _at_rest(self) -> tuple[list[str], invariants.Found]:
        unrest = await invariants.come_to_rest(self.site, self.backend)
        return unrest, await invariants.look(self.site, self.backend)

    def _said_at_the_end(self) -> list[str]:
        """A process of knit may be killed, but does not end by itself."""
        said = [text for part in self.site.parts.values() for text in part.ended_by_itself]
        for part in self.site.parts.values():
            part.ended_by_itself.clear()
        return said

    async def _evidence(self, violations: Sequence[str]) -> dict[str, object]:
        ids = {found[1]: None for one in violations if (found := _ID.search(one))}
        return await invariants.evidence(self.site, dict(list(ids.items())[:5]))
