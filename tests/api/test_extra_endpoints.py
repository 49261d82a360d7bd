"""Which request goes where: the table of the contract, and what it leaves open."""

from __future__ import annotations

import pytest

from knit_api.errors import HttpProblem
from knit_api.extra.endpoints import Endpoint, Endpoints
from knit_workflows.settings.extra_apis import OWN_PATHS

VECTORS = [
    ("/extra-api", "http://example.com/api", "/extra-api", "http://example.com/api"),
    ("/extra-api", "http://example.com/api", "/extra-api/", "http://example.com/api/"),
    ("/extra-api/", "http://example.com/api", "/extra-api", "http://example.com/api"),
    ("/extra-api", "http://example.com/api/", "/extra-api", "http://example.com/api/"),
    (
        "/extra-api",
        "http://example.com/base",
        "/extra-api/sub/path?query=1",
        "http://example.com/base/sub/path?query=1",
    ),
    (
        "/extra-api",
        "http://example.com/base",
        "/extra-api/sub/path/?query=1",
        "http://example.com/base/sub/path/?query=1",
    ),
    (
        "/extra-api",
        "http://example.com:8888/base",
        "/extra-api/sub/path?query=1",
        "http://example.com:8888/base/sub/path?query=1",
    ),
    ("/", "http://example.com", "?query=1", "http://example.com?query=1"),
]


def forwarded(path: str, proxy_to: str, request: str) -> str | None:
    raw_path, _, query = request.partition("?")
    match = Endpoints([Endpoint(path, proxy_to)]).find(raw_path)
    return match and match.endpoint.forwarded(match.rest, query)


@pytest.mark.parametrize(("path", "proxy_to", "request_", "expected"), VECTORS)
def test_a_request_is_forwarded_as_the_contract_says(path, proxy_to, request_, expected):
    assert forwarded(path, proxy_to, request_) == expected


@pytest.mark.parametrize(
    ("request_", "target"),
    [
        ("/x//a", "/base//a"),
        ("/x/a%2Fb", "/base/a%2Fb"),
        ("/x/%7euser", "/base/%7euser"),
        ("/x/a/../b", "/base/a/../b"),
        ("/x/a/%2e%2E/b", "/base/a/%2e%2E/b"),
        ("/x/./a", "/base/./a"),
        ("/x/a/b/../../c", "/base/a/b/../../c"),
        ("/x/a%2Fb/..", "/base/a%2Fb/.."),
        ("/x/a;b/..;c", "/base/a;b/..;c"),
        ("/x/...", "/base/..."),
        ("/x/%252e%252e/a", "/base/%252e%252e/a"),
        ("/%78/a", "/base/a"),
        ("/x/%zz", "/base/%zz"),
        ("/x/a;b=1", "/base/a;b=1"),
    ],
)
def test_what_follows_the_path_goes_on_byte_by_byte(request_, target):
    match = Endpoints([Endpoint("/x", "http://example.com/base")]).find(request_)
    assert match is not None
    assert match.endpoint.target(match.rest) == target


@pytest.mark.parametrize(
    "request_",
    ["/", "", "/a", "/a/", "/a/bc", "/a/b%2Fc", "//a/b", "/A/b", "a/b", "*", "http://h/a/b"],
)
def test_parents_neighbours_and_other_spellings_are_not_the_path(request_):
    assert Endpoints([Endpoint("/a/b", "http://example.com")]).find(request_) is None


@pytest.mark.parametrize(
    "rest",
    [
        "/..", "/../y", "/%2e%2e/y", "/.%2E/y", "/a/..%2f../y", "/..%5cy", "/..\\y", "//../../y",
        "/../x/y", "/a/../../x/y", "/..%2fx/y", "/..;/y", "/..;a=b/y", "/%2e%2e%3b/y", "/./../y",
        "/.;/../y", "/;a/../y", "/a/../../a/b/c", "/%2f../y", "/..%2fy",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/x"])
def test_no_spelling_of_dots_leads_out(path, rest):
    """Not even if it comes back to the path afterwards: what counts is what `proxy_to` is then."""
    with pytest.raises(HttpProblem, match=f"leads out of {path}"):
        Endpoints([Endpoint(path, "http://example.com/base")]).find(f"{path.rstrip('/')}{rest}")


@pytest.mark.parametrize("rest", ["/a%2fb/../../y", "/a%5cb/../../y", "/a\\b/../../y"])
def test_what_only_some_services_take_for_two_segments_goes_down_once(rest):
    with pytest.raises(HttpProblem, match="leads out of /x"):
        Endpoints([Endpoint("/x", "http://example.com/base")]).find(f"/x{rest}")


@pytest.mark.parametrize("path", ["/", "/x"])
@pytest.mark.parametrize(
    "request_",
    ["/api", "/api/", "/api/data", "//api/data", "/x/../api/data", "/%61pi/data", "/./api"]
    + [f"/{name}" for name in sorted(OWN_PATHS)],
)
def test_what_is_knits_own_is_never_forwarded(path, request_):
    assert Endpoints([Endpoint(path, "http://example.com")]).find(request_) is None


def test_every_path_of_knit_is_known_as_its_own(app):
    assert {path.split("/")[1] for path in app.openapi()["paths"]} == OWN_PATHS


@pytest.mark.parametrize(
    ("request_", "service"),
    [("/a", "one"), ("/a/b/c/d", "three"), ("/a/b", "two"), ("/a/bc", "one"), ("/z", "root")],
)
@pytest.mark.parametrize("turn", [1, -1])
def test_the_longest_path_counts_whatever_the_order(request_, service, turn):
    endpoints = [
        Endpoint("/", "http://root"),
        Endpoint("/a", "http://one"),
        Endpoint("/a/b", "http://two"),
        Endpoint("/a/b/c", "http://three"),
    ]
    match = Endpoints(endpoints[::turn]).find(request_)
    assert match is not None
    assert match.endpoint.host == service


@pytest.mark.parametrize(
    ("proxy_to", "sent", "shown"),
    [
        ("http://h/base", "http://h/base/a?b#c", "/x/a?b#c"),
        ("http://h/base/", "/base", "/x"),
        ("http://h/base", "/base?b", "/x?b"),
        ("http://h", "/login", "/x/login"),
        ("http://h:81", "http://h:81/login", "/x/login"),
        ("http://h:81", "http://h:8181/login", "http://h:8181/login"),
        ("http://h:80", "http://h/login", "/x/login"),
        ("http://h", "HTTP://H:80/login", "/x/login"),
        ("http://h", "//h/login", "/x/login"),
        ("http://h", "http://h:no/login", "http://h:no/login"),
        ("http://[::1]:81", "http://[::1]:81/login", "/x/login"),
        ("http://h/base", "/based", "/based"),
        ("http://h/base", "/else", "/else"),
        ("http://h/base", "a/b", "a/b"),
        ("http://h", "//other/base", "//other/base"),
        ("http://h", "https://h/base", "https://h/base"),
    ],
)
def test_a_redirect_of_the_service_leads_through_knit_again(proxy_to, sent, shown):
    assert Endpoint("/x", proxy_to).location(sent) == shown


def test_at_the_root_redirects_stay_as_they_are():
    assert Endpoint("/", "http://h").location("http://h/login") == "/login"
    assert Endpoint("/", "http://h/a").location("/a") == "/"
