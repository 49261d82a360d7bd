"""A push whose answer was lost is sent again, and there is one Data at the end."""

from __future__ import annotations

import os
import re
import socket

import httpx
import pytest

from tests.cli.real_api import error
from tests.cli.test_main import CUT, REFUSED
from tests.cli.test_sockets import read_body, read_head, serving, started


def swallowed(api):
    """Does what was asked for; its answer gets lost."""

    def answer(request):
        api.forward(request)
        raise httpx.ReadError("reset")

    return answer


def under_way(_request):
    answer = error(409, "an upload with this key is under way", "wait")
    answer.headers["Retry-After"] = "2"
    return answer


SPENT = error(409, "the upload with this key has failed", "upload again with another key")


def keys(api):
    """The keys of all uploads that were tried."""
    return [one.headers["Idempotency-Key"] for one in api.requests if one.method == "POST"]


@pytest.fixture
def push(knit, api):
    """Pushes one file, with what becomes of its first requests."""
    knit.write("a/x", "content")

    def pushing(*answers, sources=("a",)):
        api.interrupt[("POST", "/data")] = list(answers)
        return knit("data", "push", *sources, "-t", "type:x")

    return pushing


def test_a_push_whose_answer_was_lost_is_asked_for_again(api, push):
    ended = push(swallowed(api))
    assert [ended.json["knitId"]] == list(api.data)
    assert "type:x" in ended.json["tags"]
    assert len(keys(api)) == 2
    assert len(set(keys(api))) == 1
    assert re.search(r"was cut; retrying in 0\.[2-5] s \(2 of 6\)", ended.err)


def test_a_push_that_was_lost_on_its_way_is_sent_again_with_its_key(api, push):
    """It may come after all, from a proxy that kept it."""
    ended = push(CUT, CUT)
    assert [ended.json["knitId"]] == list(api.data)
    assert len(set(keys(api))) == 1


def test_what_is_under_way_is_waited_for(knit, api, push):
    """As long as the server asks for at least, and no wait counts as a try."""
    ended = push(swallowed(api), *[under_way] * 9)
    assert [ended.json["knitId"]] == list(api.data)
    assert knit.slept_for(0.5, 2.0, 2.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0, 10.0)
    assert "still working on it; asking again in 2.0 s" in ended.err


def test_what_is_under_way_for_ever_is_left_alone(knit, api, push):
    ended = push(swallowed(api), *[under_way] * 1000)
    assert ended.code == 1
    assert "hint: it may have arrived nevertheless" in ended.err
    assert sum(knit.slept) < 700
    assert len(api.data) == 1


def test_what_came_to_nothing_is_sent_anew_under_another_key(api, push):
    ended = push(CUT, under_way, SPENT)
    assert [ended.json["knitId"]] == list(api.data)
    first, second, third, last = keys(api)
    assert first == second == third != last
    assert "produced no Data; uploading again" in ended.err


def test_a_conflict_is_no_answer_to_ask_again_for(api, push):
    """Nothing was lost: somebody has stopped it."""
    ended = push(SPENT)
    assert ended.code == 1
    assert len(keys(api)) == 1


def test_what_never_left_has_no_key_to_keep(api, push):
    ended = push(REFUSED, REFUSED)
    assert ended.code == 0
    assert len(set(keys(api))) == 3
    assert len(api.data) == 1


def test_a_server_that_does_not_come_back_may_have_it(knit, api, push):
    ended = push(swallowed(api), *[REFUSED] * 5)
    assert ended.code == 1
    assert "hint: it may have arrived nevertheless" in ended.err
    assert knit.slept_for(0.5, 1.0, 2.0, 4.0, 8.0)
    assert len(set(keys(api))) == 1


@pytest.mark.parametrize("status", [502, 504])
def test_an_answer_that_a_proxy_lost_is_asked_for_again(api, push, status):
    def lost(request):
        api.forward(request)
        return httpx.Response(status, text="<html>Bad Gateway</html>")

    ended = push(lost)
    assert [ended.json["knitId"]] == list(api.data)


def test_a_server_that_is_just_back_is_given_time(api, push):
    """Its database may need longer than itself."""
    ended = push(swallowed(api), *[error(503, "the database does not answer")] * 3)
    assert [ended.json["knitId"]] == list(api.data)


def busy(status=503, pause="5"):
    """What a server says that has too much to do."""
    answer = error(status, "the system is busy: 7 wait", "try again in some seconds")
    answer.headers["Retry-After"] = pause
    return answer


@pytest.mark.parametrize("status", [503, 429])
def test_a_busy_server_is_asked_again_when_it_says_so_under_the_same_key(knit, api, push, status):
    ended = push(busy(status), busy(status))
    assert [ended.json["knitId"]] == list(api.data)
    assert knit.slept == [5.0, 5.0]
    assert "the system is busy: 7 wait; retrying in 5.0 s (2 of 6)" in ended.err
    assert len(set(keys(api))) == 1


def test_nobody_waits_for_an_hour(knit, api, push):
    ended = push(busy(pause="3600"))
    assert (ended.code, knit.slept) == (1, [])
    assert "reason: the system is busy: 7 wait" in ended.err


def test_an_upload_that_the_busy_server_has_given_up_is_sent_anew(api, push):
    ended = push(busy(), SPENT)
    assert [ended.json["knitId"]] == list(api.data)
    assert len(set(keys(api))) == 2


def test_a_server_that_stays_busy_says_so_in_the_end(api, push):
    """Nothing was lost, so nothing can have arrived."""
    ended = push(*(busy() for _ in range(6)))
    assert ended.code == 1
    assert "reason: the system is busy: 7 wait\nhint: try again in some seconds" in ended.err
    assert len(keys(api)) == 6


def test_what_is_refused_in_the_end_says_why(api, push):
    """The lost one did not arrive, and this one cannot be unpacked: the reason counts."""
    ended = push(CUT, error(400, "the archive is refused", "pack the folder anew"))
    assert ended.code == 1
    assert "hint: pack the folder anew" in ended.err


def test_each_source_has_a_key_of_its_own(knit, api, push):
    knit.write("b/y", "content")
    assert push(sources=("a", "b")).code == 0
    assert len(set(keys(api))) == len(api.data) == 2


@pytest.mark.patient
def test_a_key_is_kept_once_its_body_may_have_arrived(tmp_path):
    """Cuts within the body: another key. Cut behind it, then within the next one: the same."""
    (tmp_path / "set").write_bytes(os.urandom(30_000_000))
    heads = []

    def within(connection):
        heads.append(read_head(connection))
        connection.recv(1 << 16)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    def behind(connection):
        heads.append(read_head(connection))
        read_body(connection)

    def refuse(connection):
        behind(connection)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 5\r\n\r\nheard")

    with (
        serving(within, behind, within, refuse) as api_root,
        started(tmp_path, api_root, "data", "push", "set") as knit,
    ):
        _, err = knit.communicate()
    assert b"reason: heard" in err
    first, second, third, last = (
        re.findall(rb"(?i)idempotency-key: (\S+)", head) for head in heads
    )
    assert first != second == third == last
