"""`knit admin token` and `knit admin audit`."""

from __future__ import annotations

import re
import sys

import httpx
import pytest

from tests.cli.real_api import at_once, error

TOKEN = re.compile(r"knit_[A-Za-z0-9_-]{49}")


@pytest.fixture
def terminal(knit, monkeypatch):
    """Gives the lines that a command shows on a terminal."""

    def shown(*arguments):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        monkeypatch.setenv("COLUMNS", "250")
        ended = knit(*arguments)
        assert ended.code == 0, ended.err
        plain = re.sub(r"\x1b\[\d*m", "", ended.out.decode())
        return [line.rstrip() for line in plain.splitlines()], ended.err

    return shown


@pytest.fixture
def create(knit):
    def created(name="ci", role="editor", *more):
        ended = knit("admin", "token", "create", "--name", name, "--role", role, *more)
        assert ended.code == 0, ended.err
        return ended

    return created


def test_the_secret_is_all_of_stdout_and_nowhere_else(knit, create):
    ended = create()
    secret = ended.out.decode().removesuffix("\n")
    assert TOKEN.fullmatch(secret)
    assert secret not in ended.err
    assert "this is the token ci (id " in ended.err
    assert "role editor); keep it safe, since it is not shown again" in ended.err
    [listed] = knit("admin", "token", "list").json
    assert (listed["name"], listed["role"], listed["prefix"]) == ("ci", "editor", secret[:12])
    assert secret not in str(listed)


def test_roles_projects_and_ends(knit, api, create):
    create("ci", "viewer", "--project", "project:x", "--project", "site: 1", "--expires", "90d")
    [listed] = knit("admin", "token", "list").json
    assert listed["role"] == "viewer"
    assert listed["projects"] == ["project:x", "site:1"]
    assert "expiresAt" in listed
    body = next(one.content for one in api.requests if one.method == "POST")
    assert b'"expiresIn":"7776000s"' in body.replace(b" ", b"")
    create("ever", "admin")
    assert "expiresAt" not in knit("admin", "token", "list").json[0]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--name", "x"], 2, "--role"),
        (["--role", "viewer"], 2, "--name"),
        (["--name", "x", "--role", "king"], 2, "'viewer', 'editor', 'operator', 'admin'"),
        (["--name", "x", "--role", "viewer", "--project", "x"], 1, "--project is not a tag: 'x'"),
        (["--name", "x", "--role", "viewer", "--expires", "soon"], 1, "--expires is not an age"),
        (["--name", "x", "--role", "viewer", "--expires", "0d"], 1, "--expires is too short"),
    ],
)
def test_what_is_no_token_is_not_sent(knit, api, arguments, code, words):
    ended = knit("admin", "token", "create", *arguments)
    assert (ended.code, ended.out) == (code, b"")
    assert words in ended.err
    assert api.requests == []


def test_what_the_api_refuses(knit, create):
    ended = knit("admin", "token", "create", "--name", "no name", "--role", "viewer")
    assert ended.code == 1
    assert "cannot create the token no name" in ended.err
    create("twice")
    ended = knit("admin", "token", "create", "--name", "twice", "--role", "viewer")
    assert ended.code == 1
    assert "cannot create the token twice" in ended.err


def test_a_lost_response_is_not_repeated(knit, api):
    def cut(_request):
        raise httpx.ReadError("cut")

    api.interrupt[("POST", "/tokens")] = [cut]
    ended = knit("admin", "token", "create", "--name", "x", "--role", "viewer")
    assert ended.code == 1
    assert [one.method for one in api.requests] == ["POST"]


def test_revoking_is_for_good_and_may_be_repeated(knit, create):
    create()
    [listed] = knit("admin", "token", "list").json
    for _ in range(2):
        ended = knit("admin", "token", "revoke", listed["tokenId"])
        assert (ended.code, ended.out) == (0, b"")
        assert "the token ci opens nothing any more" in ended.err
    assert "revokedAt" in knit("admin", "token", "list").json[0]
    ended = knit("admin", "token", "revoke", "nobody")
    assert ended.code == 1
    assert "cannot revoke the token nobody" in ended.err


def test_on_a_terminal_tokens_are_a_table(terminal, knit, create):
    assert terminal("admin", "token", "list") == ([], "knit: there are none\n")
    create("old", "viewer", "--expires", "1w")
    create("ci", "editor", "--project", "project:x")
    create("gone", "admin")
    ids = [one.split()[0] for one in terminal("admin", "token", "list")[0][1:]]
    assert knit("admin", "token", "revoke", ids[0]).code == 0
    (head, gone, ci, old), _ = terminal("admin", "token", "list")
    assert head.split()[:3] == ["id", "name", "role"]
    assert "revoked 20" in gone
    assert re.search(r"ci +editor +project:x +never +valid$", ci)
    assert "  all  " in old
    assert "valid until 20" in old


def test_tokens_that_have_expired_say_so(terminal, api):
    token = {"tokenId": "t", "name": "x", "role": "viewer", "projects": [], "prefix": "knit_abc"}
    times = {"createdAt": "2024-01-02T03:04:05+00:00", "expiresAt": "2024-02-02T03:04:05+00:00"}
    more = {"createdBy": "ada", "lastUsedAt": "2024-01-03T03:04:05+00:00"}
    api.interrupt[("GET", "/tokens")] = [httpx.Response(200, json=[token | times | more])]
    (_, line), _ = terminal("admin", "token", "list")
    assert re.search(r"all +2024-01-0\d \d\d:\d\d +expired 2024-02-0\d \d\d:\d\d$", line)


def entry(number, **more):
    usual = {
        "id": number,
        "at": "2026-01-02T03:04:05+00:00",
        "subject": "token:ci",
        "actor": "ci",
        "method": "PUT",
        "route": "/api/runs/{run_id}/abort",
        "targets": {"run_id": "r-1"},
        "address": "10.0.0.7",
        "status": 200,
    }
    return usual | more


def test_audit_is_json_when_piped_and_its_flags_are_the_filter(knit, api):
    api.interrupt[("GET", "/audit")] = [httpx.Response(200, json=[entry(1)])]
    flags = ["--since", "2026-01-01T00:00Z", "--until", "2026-01-03T00:00Z", "--actor", "ci"]
    found = knit("admin", "audit", *flags, "--limit", "7").json
    assert found == [entry(1)]
    assert dict(api.requests[-1].url.params) == {
        "since": "2026-01-01T00:00:00+00:00",
        "until": "2026-01-03T00:00:00+00:00",
        "actor": "ci",
        "limit": "7",
    }
    assert knit("admin", "audit").json == [], "the real one takes it too"
    assert knit("admin", "audit", *flags).json == []


def test_on_a_terminal_the_audit_log_is_a_table(terminal, api):
    assert terminal("admin", "audit") == ([], "knit: there are none\n")
    entries = [
        entry(2),
        entry(1, actor="", status=401, route="/api/data", method="POST", targets={}),
        entry(0, status=None, route="/api/tokens", method="POST", targets={"token_id": "t\x1b"}),
    ]
    link = {"Link": '</api/audit?cursor=1>; rel="next"'}
    api.interrupt[("GET", "/audit")] = [httpx.Response(200, json=entries, headers=link)]
    (head, *lines), err = terminal("admin", "audit")
    assert head.split() == ["when", "who", "from", "what", "outcome"]
    assert re.search(r"ci +10\.0\.0\.7 +PUT /api/runs/r-1/abort +200$", lines[0])
    assert re.search(r"nobody known +10\.0\.0\.7 +POST /api/data +401$", lines[1])
    assert re.search(r"POST /api/tokens token_id=t\? +unknown$", lines[2])
    assert "only the latest 100 are shown" in err


@pytest.mark.parametrize(
    "arguments", [["--since", "yesterday"], ["--until", "x"], ["--limit", "0"], ["--limit", "1001"]]
)
def test_periods_and_limits_that_are_none(knit, api, arguments):
    assert knit("admin", "audit", *arguments).code in (1, 2)
    assert api.requests == []


def test_a_role_that_is_not_enough(knit, api):
    api.interrupt[("GET", "/tokens")] = [
        error(403, "this needs the role admin; ada has the role editor", "ask an admin")
    ]
    ended = knit("admin", "token", "list")
    assert ended.code == 1
    assert "reason: this needs the role admin" in ended.err


def test_admin_knows_no_extensions(knit):
    """`knit-token` on PATH is `knit token`, never `knit admin token`."""
    program = knit.write("bin/knit-other", "#!/bin/sh\necho extension\n")
    program.chmod(0o755)
    knit.variables["PATH"] = str(program.parent)
    ended = knit("admin", "other")
    assert ended.code == 2
    assert "No such command 'other'" in ended.err


def test_help_lists_what_there_is(knit):
    shown = knit("admin", "--help").out.decode()
    assert all(one in shown for one in ("token", "audit", "install"))
    shown = knit("admin", "token", "--help").out.decode()
    assert all(one in shown for one in ("create", "list", "revoke"))


def test_values_after_an_equals_sign_are_taken_as_they_are(knit, create):
    create("x", "viewer", "--project=-k:v")
    assert at_once(knit.api.store.tokens.all())[0].projects


def test_all_is_in_the_json(knit, create):
    create()
    listed = knit("admin", "token", "list").json
    assert set(listed[0]) == {
        "tokenId", "name", "role", "projects", "prefix", "createdAt", "createdBy",
    }  # fmt: skip
