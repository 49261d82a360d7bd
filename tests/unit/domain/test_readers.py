"""Who may join an endpoint, and what becomes of those that leave it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from knit_workflows.contracts.messages import Message
from knit_workflows.contracts.transfers import CloseTransfer, Opened
from knit_workflows.domain.readers import (
    JOINABLE_FOR,
    MOST_READERS,
    Leaving,
    Reader,
    TransferState,
    endpoint_id_of,
    endpoint_token,
    leaving,
    may_join,
)

NOW = datetime(2026, 11, 29, tzinfo=UTC)
SECOND = timedelta(seconds=1)
LINGER = 15 * SECOND
OPEN = Reader("open", TransferState.OPEN, NOW - timedelta(hours=1))


def kept(seconds: int) -> Reader:
    """Gives a row that keeps an endpoint which was read by so many seconds ago."""
    return Reader("kept", TransferState.IDLE, NOW - seconds * SECOND)


def opening(since: timedelta) -> Reader:
    """Gives the row of a transfer that is not open yet."""
    return Reader("opening", TransferState.OPENING, NOW - since)


def test_a_token_names_its_endpoint() -> None:
    """Those of uploads, and of downloads by earlier versions, name none."""
    token = endpoint_token("0123456789abcdef", "se-cr_et")
    assert (token, endpoint_id_of(token)) == ("0123456789.se-cr_et", "0123456789")
    assert endpoint_id_of("se-cr_et") == ""


@pytest.mark.parametrize(
    ("readers", "may"),
    [
        ([], False),
        ([OPEN], True),
        ([kept(14)], True),
        ([opening(SECOND)], True),
        ([opening(JOINABLE_FOR + SECOND)], False),
        ([OPEN, opening(JOINABLE_FOR + SECOND)], False),
        ([Reader("closing", TransferState.CLOSING, NOW)], False),
        ([OPEN] * (MOST_READERS - 1), True),
        ([OPEN] * MOST_READERS, False),
    ],
)
def test_an_endpoint_is_joined_while_it_works_and_has_room(
    readers: list[Reader], may: bool
) -> None:
    assert may_join(readers, NOW) is may


@pytest.mark.parametrize(
    ("own", "others", "linger", "what", "stays"),
    [
        (OPEN, [], LINGER, Leaving.STAYS, LINGER),
        (OPEN, [], 0 * SECOND, Leaving.CLOSES, 0 * SECOND),
        (OPEN, [OPEN], LINGER, Leaving.GOES, 0 * SECOND),
        (OPEN, [kept(3)], LINGER, Leaving.GOES, 0 * SECOND),
        (OPEN, [opening(SECOND)], LINGER, Leaving.GOES, 0 * SECOND),
        (opening(SECOND), [], LINGER, Leaving.CLOSES, 0 * SECOND),
        (kept(5), [], LINGER, Leaving.STAYS, 10 * SECOND),
        (kept(15), [], LINGER, Leaving.CLOSES, 0 * SECOND),
        (kept(5), [], 0 * SECOND, Leaving.CLOSES, 0 * SECOND),
        (kept(5), [OPEN], LINGER, Leaving.GOES, 0 * SECOND),
        (Reader("closing", TransferState.CLOSING, NOW), [], LINGER, Leaving.CLOSES, 0 * SECOND),
        (None, [], LINGER, Leaving.CLOSES, 0 * SECOND),
        (None, [kept(3)], LINGER, Leaving.GOES, 0 * SECOND),
    ],
)
def test_the_last_reader_decides(
    own: Reader | None, others: list[Reader], linger: timedelta, what: Leaving, stays: timedelta
) -> None:
    assert leaving(own, others, linger, NOW) == (what, stays)


@pytest.mark.parametrize("message", [Opened, CloseTransfer])
def test_messages_of_before_name_the_endpoint_otherwise(message: type[Message]) -> None:
    """Workflows that were under way at an upgrade go on with them."""
    needed = {"ok": True, "transfer_id": "t"}
    old = message.model_validate(needed | {"door": "0123456789"})
    new = message.model_validate_json(old.model_dump_json())
    assert new == old
    assert new.model_dump()["endpoint_id"] == "0123456789"
