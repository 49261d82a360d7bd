"""Shows how far an installation is: a table on a terminal, a line per step elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from knit_cli.errors import printable
from knit_cli.output import say

_STYLES = {"waits": "dim", "at work": "yellow", "done": "green", "failed": "red"}


@dataclass
class Step:
    """One chart; `seconds` it took, so far or in all."""

    name: str
    state: str = "waits"
    began: float = 0.0
    seconds: float = 0.0


@dataclass
class Progress:
    """The steps of a command that changes releases, in their order."""

    names: Sequence[str]
    quiet: bool = False
    steps: dict[str, Step] = field(init=False)

    def __post_init__(self) -> None:
        self.steps = {name: Step(name) for name in self.names}
        self._console = Console(stderr=True)
        self._live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Shows the steps while the block runs, and the seconds of each at its end."""
        if self._console.is_terminal and not self.quiet:
            self._live = Live(self._table(), console=self._console, refresh_per_second=4)
            self._live.start()
        try:
            yield
        finally:
            if self._live is not None:
                with suppress(OSError):  # the terminal may be gone
                    self._live.update(self._table(), refresh=True)
                    self._live.stop()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Marks a step as begun, and then as done or failed."""
        one = self.steps[name]
        one.state, one.began = "at work", time.monotonic()
        self.tick()
        try:
            yield
        except BaseException:
            one.state = "failed"
            raise
        else:
            one.state = "done"
        finally:
            one.seconds = time.monotonic() - one.began
            self.tick()
            if self._live is None and not self.quiet:
                say(f"{name}: {one.state}, {one.seconds:.1f} s")

    def tick(self) -> None:
        """Brings the table up to date."""
        if self._live is not None:
            self._live.update(self._table())

    def tell(self, text: str) -> None:
        """Says something while the steps go on: above the table, if there is one."""
        if self._live is None:
            say(text)
        else:
            self._live.console.print(Text(f"knit: {printable(text)}"))

    @property
    def seconds(self) -> dict[str, float]:
        """How long each step took that was begun."""
        return {one.name: round(one.seconds, 1) for one in self.steps.values() if one.began}

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
        for heading in ("chart", "state", "for"):
            table.add_column(heading)
        for one in self.steps.values():
            spent = time.monotonic() - one.began if one.state == "at work" else one.seconds
            shown = f"{spent:.1f} s" if one.began else ""
            table.add_row(one.name, Text(one.state, style=_STYLES[one.state]), shown)
        return table
