"""Signs of life: one line that changes on a terminal, whole lines elsewhere."""

from __future__ import annotations

import io

import pytest

from knit_workflows.provision.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.written = getattr(self, "written", 0) + 1
        return super().write(text)


@pytest.mark.patient
def test_a_terminal_shows_the_state_and_is_clean_afterwards() -> None:
    terminal = Terminal()
    with Progress("building", "for minutes", stream=terminal) as progress:
        progress.state = "3 packages"
        while terminal.written < 2:
            pass
    text = terminal.getvalue()
    assert text.startswith("building (for minutes) ...\n")
    assert "\r\x1b[Kbuilding: 3 packages, 0:00" in text
    assert text.endswith("\r\x1b[K")


def test_quiet_says_only_that_it_begins() -> None:
    terminal = Terminal()
    with Progress("building", "for minutes", quiet=True, stream=terminal):
        pass
    assert terminal.getvalue() == "building (for minutes) ...\n"


def test_a_closed_terminal_ends_the_talk_and_not_the_work() -> None:
    stream = io.StringIO()
    with Progress("building", "for minutes", stream=stream) as progress:
        stream.close()
        progress._write("more")
