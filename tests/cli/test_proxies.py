"""Proxies in the environment: which is taken, and that each trouble is named as theirs."""

from __future__ import annotations

import base64
import gc
import socket
import threading
from contextlib import contextmanager

import httpx
import pytest

from knit_cli.api.proxies import proxy_to
from knit_cli.config.profile import Profile, save_profile
from knit_cli.errors import ProfileProblem
from knit_cli.invocation import Surroundings
from knit_cli.main import run
from tests.waiting import PATIENCE

# httpcore leaves the socket of a SOCKS handshake that failed to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

FAR = "http://knit.test/api"


# ------------------------------------------------------------ which one


@pytest.mark.parametrize(
    ("api_root", "variables", "source"),
    [
        (FAR, {}, None),
        (FAR, {"HTTP_PROXY": ""}, None),
        (FAR, {"HTTP_PROXY": "p:1"}, "HTTP_PROXY"),
        (FAR, {"HTTP_PROXY": "p:1", "http_proxy": "q:1"}, "http_proxy"),
        (FAR, {"HTTPS_PROXY": "p:1"}, None),
        (FAR, {"HTTPS_PROXY": "p:1", "ALL_PROXY": "q:1"}, "ALL_PROXY"),
        ("https://knit.test/api", {"HTTPS_PROXY": "p:1", "ALL_PROXY": "q:1"}, "HTTPS_PROXY"),
        ("https://knit.test/api", {"HTTP_PROXY": "p:1"}, None),
        # what a client of a web server has sent
        (FAR, {"HTTP_PROXY": "p:1", "REQUEST_METHOD": "GET"}, None),
        # this machine's own addresses
        ("http://localhost:1/api", {"ALL_PROXY": "p:1"}, None),
        ("http://a.localhost:1/api", {"ALL_PROXY": "p:1"}, None),
        ("http://127.0.0.3:1/api", {"ALL_PROXY": "p:1"}, None),
        ("http://[::1]:1/api", {"ALL_PROXY": "p:1"}, None),
    ],
)
def test_which_variable_counts(api_root, variables, source):
    proxy = proxy_to(api_root, variables)
    assert (proxy and proxy.source) == source


@pytest.mark.parametrize(
    ("host", "entries", "is_direct"),
    [
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "example.org, 10.0.0.0/8", True),
        ("10.1.2.3", "example.org 10.1.2.3", True),
        ("10.1.2.3", "10.1.2.30", False),
        ("10.1.2.3", "10.1.2.3/24", True),  # with bits behind the network's
        ("10.1.2.3", "2.3", False),
        ("[fd00::5]", "fd00::/8", True),
        ("[fd00::5]", "[fd00::]/8", True),
        ("[fd00::5]", "[fd00::5]:8080", True),
        ("[fd00::5]", "[fd00::5]:8081", False),
        ("10.1.2.3", "fd00::/8", False),
        ("knit.example.org", "example.org", True),
        ("knit.example.org", ".example.org", True),
        ("example.org", ".example.org", True),
        ("example.org.", "example.org", True),
        ("knit.example.org", "*.example.org", True),
        ("knit.example.org", "KNIT.Example.org", True),
        ("anexample.org", "example.org", False),
        ("knit.example.org", "knit.example.org:8080", True),
        ("knit.example.org", "knit.example.org:443", False),
        ("knit.example.org", "10.0.0.0/8", False),
        ("knit.example.org", "*", True),
        ("knit.example.org", "a,*", True),
        ("knit.example.org", "", False),
        # without sense
        ("knit.example.org", ",,.,[::1,:80,10.0.0.0/99,http://x", False),
    ],
)
def test_what_is_reached_without_a_proxy(host, entries, is_direct):
    for variable in ("NO_PROXY", "no_proxy"):
        proxy = proxy_to(f"http://{host}:8080/api", {"ALL_PROXY": "p:1", variable: entries})
        assert (proxy is None) == is_direct


@pytest.mark.parametrize(
    ("text", "url", "user", "password"),
    [
        ("proxy:3128", "http://proxy:3128", None, None),
        ("http://proxy", "http://proxy", None, None),
        ("HTTP://proxy:1/", "http://proxy:1", None, None),
        ("socks5://u%40x:p%3Aw@proxy:1080", "socks5://proxy:1080", "u@x", "p:w"),
        ("socks5h://[fd00::1]:1080", "socks5h://[fd00::1]:1080", None, None),
        ("https://me@proxy:1", "https://proxy:1", "me", None),
    ],
)
def test_how_a_proxy_is_written(text, url, user, password):
    proxy = proxy_to(FAR, {"ALL_PROXY": text})
    assert (proxy.url, proxy.username, proxy.password) == (url, user, password)


@pytest.mark.parametrize(
    "text",
    [
        "foo://h:1",
        "socks4://h:1",
        "http://h:port",
        "http://h:99999",
        "http://[::1",
        ":::",
        "http://",
        "http://bad\x00host",
        "http://" + "a" * 300 + ".\udce9",
        f"socks5://{'u' * 300}:p@h:1",
    ],
)
def test_a_proxy_that_can_be_none_is_refused_in_words(text):
    with pytest.raises(ProfileProblem) as refused:
        proxy_to(FAR, {"https_proxy": "p:1", "ALL_PROXY": text})
    assert "from ALL_PROXY cannot be used" in refused.value.summary
    assert "ALL_PROXY=http://HOST:PORT" in refused.value.advice


def test_a_password_is_not_shown():
    with pytest.raises(ProfileProblem) as refused:
        proxy_to(FAR, {"ALL_PROXY": "foo://me:secret@h:1"})
    assert "secret" not in refused.value.summary
    assert "secret" not in str(proxy_to(FAR, {"ALL_PROXY": "http://me:secret@h:1"}))


# ------------------------------------------------------------ on the wire


@pytest.fixture
def far(tmp_path, capsys):
    """Runs `knit` with a profile of an address far away, and these variables."""

    def started(arguments, api_root=FAR, **variables):
        store = tmp_path / "profiles"
        save_profile(Profile(api_root), store=store, name="far")
        surroundings = Surroundings(
            cwd=tmp_path, home=tmp_path, variables=variables, sleep=lambda _: None
        )
        common = ["--profile", "far", "--profile-store", str(store)]
        code = run([*common, *arguments], surroundings)
        return code, *capsys.readouterr()

    return started


@contextmanager
def listening(answer):
    """Gives the port of a server that gives each connection to `answer`, and what it got."""
    got = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        ended = threading.Event()

        def serve():
            while not ended.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.settimeout(PATIENCE)
                    got.append(answer(connection))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1], got
        finally:
            ended.set()
            thread.join()
            gc.collect()  # so that these sockets are noticed here, and not in a later test


def head(connection):
    got = b""
    while b"\r\n\r\n" not in got and (chunk := connection.recv(65536)):
        got += chunk
    return got.decode()


EMPTY_LIST = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]"


def http_proxy(connection):
    """An HTTP proxy that is the API, too."""
    got = head(connection)
    connection.sendall(EMPTY_LIST)
    return got


def socks_proxy(connection, *, user=None):
    """A SOCKS proxy that is the API, too."""
    greeting = connection.recv(3)
    if user is not None:
        connection.sendall(b"\x05\x02")
        asked = connection.recv(512)
        assert asked == b"\x01" + bytes([len(user)]) + user + b"\x02pw"
        connection.sendall(b"\x01\x00")
    else:
        assert greeting == b"\x05\x01\x00"
        connection.sendall(b"\x05\x00")
    asked = connection.recv(512)
    connection.sendall(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
    connection.recv(65536)
    connection.sendall(EMPTY_LIST)
    return asked[5:-2].decode()


def test_through_an_http_proxy(far):
    with listening(http_proxy) as (port, got):
        ended = far(["data", "find"], http_proxy=f"http://me:pw@127.0.0.1:{port}")
    assert ended == (0, "[]\n", "")
    assert got[0].startswith("GET http://knit.test/api/data?limit=1000 HTTP/1.1\r\n")
    assert f"Basic {base64.b64encode(b'me:pw').decode()}" in got[0]


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_through_a_socks_proxy_which_resolves_the_name(far, scheme):
    with listening(socks_proxy) as (port, got):
        ended = far(["data", "find"], ALL_PROXY=f"{scheme}://127.0.0.1:{port}")
    assert ended == (0, "[]\n", "")
    assert got == ["knit.test"]


def test_through_a_socks_proxy_with_a_password(far):
    def answer(connection):
        return socks_proxy(connection, user=b"me")

    with listening(answer) as (port, _):
        ended = far(["data", "find"], ALL_PROXY=f"socks5://me:pw@127.0.0.1:{port}")
    assert ended == (0, "[]\n", "")


def test_past_the_proxy_into_a_network_of_no_proxy(far):
    """What is in NO_PROXY is not asked of the proxy, which would have answered."""
    with listening(http_proxy) as (port, got):
        code, _, err = far(
            ["data", "find"],
            api_root="http://127.0.0.1:1/api",
            ALL_PROXY=f"http://127.0.0.1:{port}",
        )
    assert (code, got) == (1, [])
    assert "error: the API at http://127.0.0.1:1/api does not answer\n" in err


@pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
@pytest.mark.parametrize("api_root", [FAR, "https://knit.test/api"])
def test_a_dead_proxy_is_named_and_not_the_api(far, scheme, api_root):
    code, _, err = far(["data", "find"], api_root=api_root, ALL_PROXY=f"{scheme}://127.0.0.1:1")
    assert code == 1
    assert f"error: the proxy {scheme}://127.0.0.1:1 (from ALL_PROXY) does not answer\n" in err
    assert "hint: check ALL_PROXY" in err
    assert "the API at" not in err


def refusing(answer):
    def refuse(connection):
        got = connection.recv(65536)
        connection.sendall(answer)
        return got

    return refuse


PAGE = (
    b"HTTP/1.1 %s\r\nServer: squid/5.7\r\nContent-Type: text/html\r\nContent-Length: %d\r\n"
    b"Connection: close\r\n\r\n%s"
)


def page(status, title):
    body = b"<!DOCTYPE html><html><head><title>%s</title></head><p>Long words</p>" % title
    return PAGE % (status, len(body), body)


@pytest.mark.parametrize("api_root", [FAR, "https://knit.test/api"])
def test_a_proxy_that_wants_a_password(far, api_root):
    answer = refusing(page(b"407 Proxy Authentication Required", b"Cache Access Denied"))
    with listening(answer) as (port, _):
        code, _, err = far(["data", "find"], api_root, ALL_PROXY=f"http://127.0.0.1:{port}")
    assert code == 1
    assert "407" in err and "USER:PASSWORD@" in err and "<html" not in err


def test_a_socks_proxy_that_wants_a_password(far):
    with listening(refusing(b"\x05\x02")) as (port, _):
        code, _, err = far(["data", "find"], ALL_PROXY=f"socks5://127.0.0.1:{port}")
    assert code == 1
    assert "requires a user and a password" in err
    assert f"as in socks5://USER:PASSWORD@127.0.0.1:{port}" in err


@pytest.mark.parametrize(
    "answer", [b"", b"\x05", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x05\xff", b"\x05\x00"]
)
def test_what_is_no_socks_proxy(far, answer):
    with listening(refusing(answer)) as (port, _):
        code, _, err = far(["data", "find"], ALL_PROXY=f"socks5://127.0.0.1:{port}")
    assert code == 1
    assert f"the proxy socks5://127.0.0.1:{port} (from ALL_PROXY)" in err
    assert "because of a bug" not in err


def test_a_proxy_that_does_not_lead_to_the_api(far):
    with listening(refusing(page(b"403 Forbidden", b"no"))) as (port, _):
        code, _, err = far(
            ["data", "find"], "https://knit.test/api", HTTPS_PROXY=f"127.0.0.1:{port}"
        )
    assert code == 1
    assert "cannot reach the API at https://knit.test/api" in err
    assert "reason: 403 Forbidden" in err


def test_a_connection_that_a_proxy_cuts_names_it(far):
    with listening(refusing(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[")) as (port, _):
        code, _, err = far(["data", "find"], HTTP_PROXY=f"127.0.0.1:{port}")
    assert code == 1
    assert f"through the proxy http://127.0.0.1:{port} (from HTTP_PROXY) was cut" in err


@pytest.mark.parametrize(
    ("status", "title", "advice"),
    [
        (413, "413 Request Entity Too Large", "client_max_body_size"),
        (502, "502 Bad Gateway", "try again later"),
        (504, "Our cloud is busy", "try again later"),
        (403, "Blocked by policy &amp; more", "apiRoot"),
        (404, "nginx", "apiRoot"),
        (200, "Sign in to the network", "login page"),
    ],
)
def test_a_web_page_is_not_taken_for_the_apis_answer(knit, api, status, title, advice):
    body = f"<html>\n<head><title>{title}</title></head><body>Words</body></html>"
    headers = {"Server": "nginx/1.25", "Content-Type": "text/html"}
    api.interrupt[("GET", "/runs")] = [
        httpx.Response(status, headers=headers, text=body) for _ in range(9)
    ]
    ended = knit("run", "find")
    assert (ended.code, ended.out) == (1, b"")
    assert f"something in between (nginx/1.25): HTTP status {status}" in ended.err
    assert advice in ended.err
    assert "<" not in ended.err and "&amp;" not in ended.err


@pytest.mark.parametrize("arguments", [("run", "show", "r", "--log"), ("data", "pull", "k", "-x")])
def test_a_web_page_is_not_taken_for_content(knit, api, arguments):
    """A log may begin as a page does, so the header decides."""
    page = {"text": "<html><title>Sign in</title>", "headers": {"Content-Type": "text/html"}}
    for path in ("/runs/r/log", "/data/k"):
        api.interrupt[("GET", path)] = [httpx.Response(200, **page)] * 9
    ended = knit(*arguments)
    assert (ended.code, ended.out) == (1, b"")
    assert "the response is not from knit's API, but from something in between" in ended.err
    assert list(knit.cwd.glob("k*")) == []
