"""Ports: the user's choice, the last start's, or any free one."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator

import pytest

from knit_cli.dev.dev_folder import Ports
from knit_cli.dev.ports import choose_ports, listens, why_not_free
from knit_cli.errors import BadInput

_numbers = itertools.count(10_000 + os.getpid() % 20_000)


def free_port() -> int:
    """A port that nobody is given by chance: connections and free ports get higher numbers."""
    return next(number for number in _numbers if why_not_free(number) is None)


NONE: dict[str, int | None] = {"api": None, "temporal": None, "web_ui": None}


@pytest.fixture
def busy() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_without_any_wish_three_different_free_ports() -> None:
    """Each can be listened on now."""
    ports = choose_ports(NONE, None)
    numbers = {ports.api, ports.temporal, ports.web_ui}
    assert len(numbers) == 3
    assert all(why_not_free(number) is None for number in numbers)


def test_the_last_starts_ports_stay_unless_taken(busy: int) -> None:
    """What is taken meanwhile is replaced, the others stay."""
    last = Ports(api=busy, temporal=free_port(), web_ui=free_port())
    ports = choose_ports(NONE, last)
    assert (ports.temporal, ports.web_ui) == (last.temporal, last.web_ui)
    assert ports.api not in (busy, ports.temporal, ports.web_ui)


def test_a_wish_goes_before_the_last_start() -> None:
    """Also when it is the last start's port of another server."""
    last = Ports(api=free_port(), temporal=free_port(), web_ui=free_port())
    ports = choose_ports(NONE | {"temporal": last.api}, last)
    assert ports.temporal == last.api
    assert ports.api != last.api


@pytest.mark.parametrize("port", [70000, -1])
def test_an_impossible_wish_is_told(port: int) -> None:
    """With its flag, and what to do."""
    with pytest.raises(BadInput, match="--web-port"):
        choose_ports(NONE | {"web_ui": port}, None)


def test_a_taken_or_doubled_wish_is_told(busy: int) -> None:
    """A port can be listened on once."""
    with pytest.raises(BadInput, match="--api-port"):
        choose_ports(NONE | {"api": busy}, None)
    same = free_port()
    with pytest.raises(BadInput, match="cannot be used") as raised:
        choose_ports(NONE | {"api": same, "web_ui": same}, None)
    assert raised.value.reason == "it is given twice"


def test_only_the_process_itself_listens(busy: int) -> None:
    """Somebody else's server on our port does not make ours ready."""
    assert listens(os.getpid(), busy)
    assert not listens(os.getppid(), busy)
    assert not listens(os.getpid(), free_port())
    assert not listens(2**22 + 1, busy)
