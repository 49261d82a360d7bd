"""Calls hooks over HTTP."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from knit_workflows.domain.hooks import HookAnswer
from knit_workflows.hooks.addresses import Lookup, system_lookup
from knit_workflows.hooks.file import HooksFile
from knit_workflows.hooks.message import HookMessage
from knit_workflows.settings import HookSettings

if TYPE_CHECKING:
    from knit_workflows.hooks.exchange import Exchange

__all__ = ["HookCaller", "HookMessage"]


class HookCaller:
    """Calls hooks, any number at once.

    `configure` tells it what the hooks file says beyond the URLs; before that, its defaults hold.
    """

    def __init__(
        self,
        settings: HookSettings,
        *,
        lookup: Lookup = system_lookup,
        variables: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` gives seconds since 1970, which signatures are made with; it may jump."""
        self._settings = settings
        self._clock = clock
        self._lookup = lookup
        self._variables = variables
        self._file = HooksFile()
        self._exchange: Exchange | None = None

    def configure(self, file: HooksFile) -> None:
        """Writes and guards calls from now on as this file says."""
        self._file = file
        if self._exchange is not None:
            self._exchange.configure(file)

    async def call(self, url: str, message: HookMessage) -> HookAnswer:
        """Calls a hook once. Whatever a receiver or the network does is an answer, not an error."""
        if self._exchange is None:
            # The HTTP client is 10 MiB, which only workers that really call hooks need.
            from knit_workflows.hooks.exchange import Exchange

            self._exchange = Exchange(
                self._settings, self._file, self._lookup, self._variables, self._clock
            )
        return await self._exchange.call(url, message)

    async def aclose(self) -> None:
        """Ends all connections; a later call makes new ones."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            await exchange.aclose()
