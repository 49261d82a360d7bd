"""The graph of Data and Runs, and what completes its names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from knit_workflows.domain.completions import Completion, Noun
from knit_workflows.domain.ids import KnitId
from knit_workflows.domain.lineage import Lineage, LineageGraph


class LineageStore(Protocol):
    """Walks the graph of Data and Runs."""

    async def get(
        self, knit_id: KnitId, *, upstream: int | None, downstream: int | None, limit: int
    ) -> Lineage:
        """Gives what a Data came from and what was made of it, so many Runs deep (None: all).

        Raises:
            DataNotFound: there is no such Data.
            TooLarge: there are more than `limit` Data or Runs.
        """

    async def graph(
        self, knit_id: KnitId, *, upstream: int | None, downstream: int | None, limit: int
    ) -> LineageGraph:
        """Gives the same as ids alone, some thirty times faster; raises the same."""


class CompletionStore(Protocol):
    """Completes ids and tags on a command line."""

    async def find(self, noun: Noun, prefix: str, *, limit: int) -> Sequence[Completion]:
        """Gives at most `limit` ids, tags or keys that begin with `prefix`.

        Without a prefix the newest ids come first, otherwise all are ordered by value; tags and
        keys are taken from the 100,000 newest tags. Takes the same time however many there are.
        """
