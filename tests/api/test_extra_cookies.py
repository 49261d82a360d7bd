"""Cookies of a service behind an extra API: clients send them back through knit, and only there."""

from __future__ import annotations

import pytest

from knit_api.extra.cookies import moved
from knit_api.extra.endpoints import Endpoint
from tests.api.extra import PutInForce, extra
from tests.api.live_server import talk
from tests.api.test_extra_apis import request
from tests.api.upstreams import sends, service

__all__ = ["extra"]


@pytest.mark.parametrize(
    ("proxy_to", "sent", "shown"),
    [
        ("http://h/base", "a=1; Path=/base", "a=1; Path=/x"),
        ("http://h/base", "a=1; Path=/base/", "a=1; Path=/x"),
        ("http://h/base", "a=1; Path=/base/b; Secure", "a=1; Path=/x/b; Secure"),
        ("http://h/base/", "a=1;path = /base/b/", "a=1;path =/x/b/"),
        ("http://h", "a=1; Path=/", "a=1; Path=/x"),
        ("http://h", "a=1; Path=/b", "a=1; Path=/x/b"),
        # It would be sent to all of knit, and to every other service behind it.
        ("http://h/base/v1", "a=1; Path=/", "a=1; Path=/x"),
        ("http://h/base/v1", "a=1; Path=/base", "a=1; Path=/x"),
        ("http://h/base", "a=1; Path=/based", "a=1; Path=/based"),
        ("http://h/base", "a=1; Path=/else", "a=1; Path=/else"),
        ("http://h/base", "a=1", "a=1"),
        ("http://h/base", "a=1; Path", "a=1; Path"),
        ("http://h/base", "a=1; Path=", "a=1; Path="),
        ("http://h/base", "path=/base; HttpOnly", "path=/base; HttpOnly"),
        ("http://h/base", 'a="x,y"; Path=/base', 'a="x,y"; Path=/x'),
        ("http://h/base", "__Host-a=1; Path=/; Secure", "__Host-a=1; Path=/; Secure"),
    ],
)
def test_the_path_of_a_cookie_leads_through_knit(proxy_to: str, sent: str, shown: str) -> None:
    assert moved(sent, Endpoint("/x", proxy_to), "knit:8080") == shown


def test_at_the_root_it_is_the_root() -> None:
    assert moved("a=1; Path=/", Endpoint("/", "http://h"), "knit") == "a=1; Path=/"
    assert moved("a=1; Path=/a", Endpoint("/", "http://h/a"), "knit") == "a=1; Path=/"


@pytest.mark.parametrize(
    ("host", "domain", "kept"),
    [
        ("knit.example", "importer.tools", False),
        ("knit.example", ".IMPORTER.tools", False),
        ("knit.example", "tools", False),
        ("knit.tools:8080", ".tools", True),
        ("importer.tools", "importer.tools", True),
        ("knit.example", "other.example", True),
        ("", "importer.tools", False),
    ],
)
def test_a_domain_that_does_not_hold_for_knit_goes(host: str, domain: str, kept: bool) -> None:
    """Clients would drop the cookie; what is for neither of both is not ours to judge."""
    found = moved(f"a=1; Domain={domain}; Secure", Endpoint("/x", "http://importer.tools"), host)
    assert found == (f"a=1; Domain={domain}; Secure" if kept else "a=1; Secure")


def test_an_address_has_no_domain_above() -> None:
    found = moved("a=1; Domain=0.1", Endpoint("/x", "http://10.0.0.1"), "knit.example")
    assert found == "a=1; Domain=0.1"


async def test_each_cookie_of_a_response_is_moved(port: int, extra: PutInForce) -> None:
    answered = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"
        b"Set-Cookie: a=1; Path=/base\r\nSet-Cookie: b=2; Path=/base/b; Domain=127.0.0.1\r\n\r\n"
    )
    async with service(sends(answered)) as behind:
        extra(behind.port)
        answer = (await talk(port, request())).lower()
    assert b"set-cookie: a=1; path=/x\r\n" in answer
    assert b"set-cookie: b=2; path=/x/b\r\n" in answer
