"""`knit login`, `logout`, `whoami`, and which token is sent to whom."""

from __future__ import annotations

import base64
import http.server
import json
import signal
import stat
import subprocess
import sys
import threading
import time

import httpx
import pytest
import yaml

from knit_cli.accounts.credentials import CredentialsFile, Login
from knit_cli.config.profile import Profile, save_profile
from knit_cli.errors import NotLoggedIn
from tests.cli.real_api import API_ROOT, error
from tests.cli.scripted_provider import (
    DEVICE,
    ISSUER,
    REVOKE,
    TOKEN,
    ScriptedProvider,
    id_token,
    refusal,
    tokens,
)
from tests.processes import bare_environment
from tests.waiting import PATIENCE

METADATA = ("GET", "/.well-known/oauth-protected-resource")
WHOAMI = ("GET", "/whoami")
SECRET = "knit_" + "a" * 49
ADA = {"subject": "oidc:ada", "name": "ada", "role": "editor", "projects": ["project:x"]}


@pytest.fixture
def provider(api):
    scripted = ScriptedProvider()
    api.elsewhere = scripted
    return scripted


@pytest.fixture
def meant(api):
    """Lets the API name the provider, and know the user."""

    def named(**more):
        resource = {
            "resource": API_ROOT,
            "authorization_servers": [ISSUER],
            "bearer_methods_supported": ["header"],
            "knit_client_id": "knit-cli",
            "knit_token": "id_token",
        }
        api.interrupt[METADATA] = [httpx.Response(200, json=resource | more) for _ in range(9)]
        api.interrupt[WHOAMI] = [httpx.Response(200, json=ADA) for _ in range(9)]

    named()
    return named


@pytest.fixture
def logged_in(knit):
    """Puts a login into the file."""

    def put(expires_in=3600.0, **more):
        end = None if expires_in is None else time.time() + expires_in
        usual = {
            "issuer": ISSUER,
            "client_id": "knit-cli",
            "kind": "id_token",
            "token": id_token("old"),
            "expires_at": end,
            "refresh_token": "refresh-old",
            "token_endpoint": TOKEN,
            "revocation_endpoint": REVOKE,
        }
        login = Login(**{**usual, **more})
        credentials(knit).put(API_ROOT, login)
        return login

    return put


def credentials(knit):
    return CredentialsFile(knit.home / ".knit" / "credentials")


def sent(api):
    """The header of the last request to the API."""
    return api.requests[-1].headers.get("Authorization")


# ------------------------------------------------------------ logging in


def test_login_asks_shows_waits_and_keeps(knit, api, provider, meant):
    given = tokens()
    provider.answers[TOKEN] = [refusal("authorization_pending"), given]
    ended = knit("login")
    assert (ended.code, ended.out) == (0, b""), ended.err
    assert f"open {ISSUER}/activate on any device, log in, and confirm the code ABCD-EFGH" in (
        ended.err
    )
    assert "logged in: ada (oidc:ada), role editor, in project:x" in ended.err
    assert provider.forms[DEVICE] == [
        {"client_id": "knit-cli", "scope": "openid profile groups offline_access"}
    ]
    [_, form] = provider.forms[TOKEN]
    assert form == {
        "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
        "device_code": "device-secret",
        "client_id": "knit-cli",
    }
    assert knit.slept == [2, 2]
    file = knit.home / ".knit" / "credentials"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    kept = credentials(knit).find(API_ROOT)
    assert kept.token == given["id_token"]
    assert 60 < kept.expires_at - time.time() <= 300, "of the token that is sent"
    assert sent(api) == f"Bearer {kept.token}"
    assert "refresh-first" not in repr(kept)
    assert all("Authorization" not in one.headers for one in provider.requests)
    assert "Authorization" not in api.requests[0].headers


def test_a_browser_is_opened_where_there_is_a_screen(knit, provider, meant):
    assert "open in your browser" not in knit("login").err
    assert knit.opened == []
    knit.variables["DISPLAY"] = ":0"
    assert "it should be open in your browser by now; compare the code" in knit("login").err
    assert knit.opened == [f"{ISSUER}/activate?user_code=ABCD-EFGH"]
    del provider.device["verification_uri_complete"]
    assert knit("login").code == 0
    assert knit.opened[1:] == [f"{ISSUER}/activate"]
    assert knit("login", "--no-browser").code == 0
    assert len(knit.opened) == 2


def test_a_page_that_is_not_safe_is_not_opened(knit, provider, meant):
    knit.variables["DISPLAY"] = ":0"
    provider.device["verification_uri_complete"] = "file:///etc/passwd"
    assert knit("login").code == 0
    assert knit.opened == [f"{ISSUER}/activate"]
    provider.device["verification_uri"] = "http://evil.example/"
    ended = knit("login")
    assert ended.code == 1
    assert "answers with no code" in ended.err
    assert len(knit.opened) == 1


def test_the_provider_may_ask_for_patience(knit, provider, meant):
    provider.answers[TOKEN] = [
        refusal("slow_down"),
        httpx.ConnectError("no route"),
        httpx.Response(503),
        refusal("authorization_pending"),
        tokens(),
    ]
    assert knit("login").code == 0
    assert knit.slept == [2, 7, 14, 28, 28]


def test_without_an_interval_five_seconds_and_until_the_code_expires(knit, provider, meant):
    provider.device |= {"interval": None, "expires_in": 12}
    provider.answers[TOKEN] = [refusal("authorization_pending")]
    ended = knit("login")
    assert ended.code == 1
    assert "error: the code has expired\nreason: nobody has confirmed it" in ended.err
    assert "hint: run `knit login` again" in ended.err
    assert knit.slept == [5, 5, 5]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (refusal("access_denied", "no"), ["login was denied", "access_denied: no", "if it was"]),
        (refusal("expired_token"), ["the code has expired", "expired_token"]),
        (refusal("invalid_grant", "used"), ["the login has failed", "invalid_grant: used"]),
        (httpx.Response(400, text="<html>"), ["the login has failed", "HTTP status 400"]),
        (tokens(id_token=None), ["the login has failed", "gives no id_token"]),
        ({}, ["the login has failed", "gives no id_token"]),
    ],
    ids=["denied", "expired", "used", "a page", "no ID token", "nothing"],
)  # fmt: skip
def test_logins_that_fail(knit, provider, meant, answer, words):
    provider.answers[TOKEN] = [answer]
    ended = knit("login")
    assert ended.code == 1
    assert all(one in ended.err for one in words), ended.err
    assert not (knit.home / ".knit" / "credentials").exists()


def test_the_administrator_may_name_scopes_and_the_token(knit, api, provider, meant):
    meant(scopes_supported=["api://knit/all", "offline_access"], knit_token="access_token")
    assert knit("login").code == 0
    assert provider.forms[DEVICE][0]["scope"] == "api://knit/all offline_access"
    assert sent(api) == "Bearer access-first"
    assert 0 < credentials(knit).find(API_ROOT).expires_at - time.time() <= 60


def test_a_provider_that_names_no_scopes(knit, provider, meant):
    del provider.configuration["scopes_supported"]
    assert knit("login").code == 0
    assert provider.forms[DEVICE][0]["scope"] == "openid profile email offline_access"


def test_a_knit_without_a_provider(knit, api):
    for resource in ({}, {"authorization_servers": [ISSUER]}):
        resource |= {"resource": API_ROOT, "bearer_methods_supported": ["header"]}
        api.interrupt[METADATA] = [httpx.Response(200, json=resource)]
        ended = knit("login")
        assert ended.code == 1
        assert "this knit has no identity provider to log in at" in ended.err
        assert "knit admin token create" in ended.err
    assert knit("login").code == 1, "the real one has none either"


def test_an_api_that_names_a_provider_that_is_not_safe(knit, provider, meant):
    meant(authorization_servers=["http://login.test"])
    ended = knit("login")
    assert ended.code == 1
    assert "names an identity provider that cannot be used" in ended.err
    assert provider.requests == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"device_authorization_endpoint": None}, "has no device flow"),
        ({"device_authorization_endpoint": "http://login.test/d"}, "cannot be used: it is http"),
        ({"token_endpoint": None}, "names no token_endpoint"),
        ({"issuer": "https://evil.example"}, "its configuration is that of 'https://evil"),
    ],
)
def test_a_provider_that_cannot_be_used(knit, provider, meant, change, words):
    provider.configuration |= change
    ended = knit("login")
    assert ended.code == 1
    assert words in ended.err
    assert "ask" in ended.err


@pytest.mark.parametrize(
    "answer",
    [httpx.Response(404), httpx.Response(200, text="<html>"), httpx.Response(200, json=[])],
)
def test_a_provider_without_a_configuration(knit, api, meant, answer):
    api.elsewhere = lambda _: answer
    ended = knit("login")
    assert ended.code == 1
    assert "and not its configuration" in ended.err


def test_a_provider_that_is_away(knit, api, meant):
    def away(_request):
        raise httpx.ConnectError("no route to host")

    api.elsewhere = away
    ended = knit("login")
    assert ended.code == 1
    assert f"the identity provider {ISSUER} does not answer\nreason: no route" in ended.err


def test_a_device_code_must_be_one(knit, provider, meant):
    provider.device["device_code"] = 7
    ended = knit("login")
    assert ended.code == 1
    assert "answers with no code" in ended.err


def test_without_tls_the_user_is_warned(knit, provider, meant):
    assert f"{API_ROOT} is not https: others on the way can read" in knit("login").err


def test_a_login_that_would_not_be_used(knit, api):
    knit.variables["KNIT_TOKEN"] = SECRET
    ended = knit("login")
    assert ended.code == 1
    assert "hint: unset KNIT_TOKEN" in ended.err
    assert api.requests == []


# ------------------------------------------------------------ logging out


def test_logout_forgets_and_revokes(knit, provider, logged_in):
    logged_in()
    ended = knit("logout")
    assert (ended.code, ended.out) == (0, b"")
    assert f"logged out, and {ISSUER} has ended the session" in ended.err
    assert provider.forms[REVOKE] == [
        {"token": "refresh-old", "token_type_hint": "refresh_token", "client_id": "knit-cli"}
    ]
    assert credentials(knit).find(API_ROOT) is None
    assert "you are not logged in" in knit("logout").err


def test_logout_leaves_other_logins(knit, provider, logged_in):
    other = logged_in()
    credentials(knit).put("https://other.test/api", other)
    assert knit("logout").code == 0
    assert credentials(knit).find("https://other.test/api") == other


def test_a_provider_that_cannot_be_told(knit, provider, logged_in):
    logged_in(revocation_endpoint=None)
    assert "cannot be told, so end the session there as well" in knit("logout").err
    logged_in(refresh_token=None)
    assert knit("logout").err == "knit: logged out\n"
    assert provider.requests == []
    logged_in()
    provider.answers[REVOKE] = [httpx.Response(503)]
    ended = knit("logout")
    assert ended.code == 1
    assert "you are logged out here, but the identity provider could not be told" in ended.err
    assert f"hint: end the session at {ISSUER} as well" in ended.err
    assert credentials(knit).find(API_ROOT) is None


# ------------------------------------------------------------ renewal


def test_a_login_that_is_about_to_expire_is_renewed_first(knit, api, provider, logged_in):
    logged_in(expires_in=20)
    given = tokens("next")
    provider.answers[TOKEN] = [given]
    assert knit("data", "find").code == 0
    assert provider.forms[TOKEN] == [
        {
            "grant_type": "refresh_token",
            "refresh_token": "refresh-old",
            "client_id": "knit-cli",
        }
    ]
    assert sent(api) == f"Bearer {given['id_token']}"
    assert credentials(knit).find(API_ROOT).refresh_token == "refresh-next"
    assert knit("data", "find").code == 0
    assert len(provider.forms[TOKEN]) == 1


def test_a_refresh_token_that_is_not_replaced_stays(knit, provider, logged_in):
    logged_in(expires_in=0)
    provider.answers[TOKEN] = [tokens("next", refresh_token=None)]
    assert knit("data", "find").code == 0
    assert credentials(knit).find(API_ROOT).refresh_token == "refresh-old"


def test_a_refused_token_is_renewed_once(knit, api, provider, logged_in):
    """Its key was taken back, or a clock is wrong."""
    logged_in()
    provider.answers[TOKEN] = [tokens("second"), tokens("third")]
    api.interrupt[("GET", "/data")] = [error(401, "the token is signed with …")]
    assert knit("data", "find").code == 0
    assert len(provider.forms[TOKEN]) == 1
    api.interrupt[("GET", "/data")] = [error(401, "unknown")] * 3
    ended = knit("data", "find")
    assert ended.code == 1
    assert "reason: unknown\nhint: log in again: knit login" in ended.err
    assert len(api.interrupt[("GET", "/data")]) == 1
    provider.answers[TOKEN] = [httpx.Response(503)]
    api.interrupt[("GET", "/data")] = [error(401, "unknown")] * 3
    assert "reason: unknown" in knit("data", "find").err


def test_an_upload_is_not_sent_twice(knit, api, provider, logged_in):
    """Its body is made as it is sent."""
    logged_in()
    knit.write("set/file", "x")
    api.interrupt[("POST", "/data")] = [error(401, "unknown")]
    ended = knit("data", "push", "set")
    assert ended.code == 1
    assert "hint: log in again" in ended.err
    assert TOKEN not in provider.forms


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (refusal("invalid_grant", "expired"), f"{ISSUER} has ended your login"),
        (refusal("invalid_client"), f"{ISSUER} has ended your login"),
        (tokens(id_token=None), f"{ISSUER} gives no new id_token for a refresh token"),
        (httpx.ConnectError("no route"), "does not answer"),
    ],
    ids=["ended", "unknown client", "no ID token", "away"],
)
def test_a_login_that_cannot_be_renewed(knit, api, provider, logged_in, answer, words):
    logged_in(expires_in=0)
    provider.answers[TOKEN] = [answer]
    ended = knit("data", "find")
    assert ended.code == 1
    assert words in ended.err
    assert api.requests == []


def test_what_has_ended_is_not_asked_for_again(knit, provider, logged_in):
    logged_in(expires_in=0)
    provider.answers[TOKEN] = [refusal("invalid_grant")]
    knit("data", "find")
    ended = knit("data", "find")
    assert "error: your login has expired" in ended.err
    assert "hint: log in again: knit login" in ended.err
    assert len(provider.forms[TOKEN]) == 1


def test_the_next_refresh_token_is_kept_even_if_nothing_else_comes(knit, provider, logged_in):
    logged_in(expires_in=0)
    provider.answers[TOKEN] = [{"refresh_token": "refresh-next"}]
    assert knit("data", "find").code == 1
    assert credentials(knit).find(API_ROOT).refresh_token == "refresh-next"


def test_a_provider_that_is_away_does_not_matter_while_the_token_is_valid(
    knit, api, provider, logged_in
):
    login = logged_in(expires_in=20)
    provider.answers[TOKEN] = [httpx.ConnectError("no route")]
    assert knit("data", "find").code == 0
    assert sent(api) == f"Bearer {login.token}"


def test_a_login_without_an_end_is_used_until_it_is_refused(knit, api, provider, logged_in):
    login = logged_in(expires_in=None)
    assert knit("data", "find").code == 0
    assert sent(api) == f"Bearer {login.token}"


def test_of_two_that_renew_one_asks(knit, provider, logged_in):
    """The other finds what the first has saved."""
    logged_in(expires_in=0)
    waiting, going_on = threading.Event(), threading.Event()
    answer = provider.__call__

    def slow(request):
        waiting.set()
        assert going_on.wait(60)
        return answer(request)

    knit.api.elsewhere = slow
    ended = []
    first = threading.Thread(target=lambda: ended.append(header(knit)))
    first.start()
    assert waiting.wait(60)
    second = threading.Thread(target=lambda: ended.append(header(knit)))
    second.start()
    going_on.set()
    first.join()
    second.join()
    assert len(provider.forms[TOKEN]) == 1
    assert len(set(ended)) == 1


def header(knit):
    from knit_cli.accounts.login_token import LoginToken
    from knit_cli.accounts.provider import Provider

    file = credentials(knit)
    client = httpx.MockTransport(lambda request: knit.api.elsewhere(request))
    return LoginToken(
        file,
        API_ROOT,
        file.find(API_ROOT),
        lambda issuer: Provider(issuer, httpx.Client(transport=client)),
    ).header()


def test_a_logout_meanwhile_is_not_undone(knit, provider, logged_in):
    login = logged_in(expires_in=0)
    file = credentials(knit)
    file.put(API_ROOT, None)
    from knit_cli.accounts.login_token import LoginToken

    with pytest.raises(NotLoggedIn, match="you have logged out"):
        LoginToken(file, API_ROOT, login, lambda _: None).header()
    assert file.find(API_ROOT) is None


# ------------------------------------------------------------ which token, and to whom


def test_whoami(knit, api, meant, monkeypatch):
    assert knit("whoami").json == ADA
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    api.interrupt[WHOAMI] = [
        httpx.Response(200, json={**ADA, "projects": [], "expires": "2026-01-02T03:04:05+00:00"})
    ]
    out = knit("whoami").out.decode()
    assert out.startswith("ada (oidc:ada), role editor, until 2026-01-0")


def test_whoami_where_nobody_asks(knit):
    assert knit("whoami").json["role"] == "admin"


def test_the_environment_wins_then_the_profile_then_the_login(knit, api, logged_in):
    login = logged_in()
    assert knit("data", "find").code == 0
    assert sent(api) == f"Bearer {login.token}"
    save_profile(Profile(API_ROOT, token="from-profile"), store=knit.store, name=str(knit.cwd))
    assert knit("data", "find").code == 0
    assert sent(api) == "Bearer from-profile"
    knit.variables["KNIT_TOKEN"] = f" {SECRET}\n"
    assert knit("data", "find").code == 0
    assert sent(api) == f"Bearer {SECRET}"


def test_without_any_token_none_is_sent(knit, api):
    knit.variables["KNIT_TOKEN"] = ""
    assert knit("data", "find").code == 0
    assert sent(api) is None


def test_a_login_is_for_one_api(knit, api, logged_in):
    logged_in()
    knit.use_profile("http://knit.test/other/api")
    knit("data", "find")
    assert sent(api) is None


def test_tokens_of_profiles_survive_init(bare_knit, api):
    bare_knit.write("secrets/token", f"{SECRET}\n")
    for content, header in (
        (f'apiRoot: {API_ROOT}\ntoken: "{SECRET}"', f"Bearer {SECRET}"),
        (f"apiRoot: {API_ROOT}\ntokenFile: secrets/token", f"Bearer {SECRET}"),
        ("apiRoot: http://knit:pa%2Fss@knit.test/api/", "Basic " + _base64("knit:pa/ss")),
    ):
        bare_knit.write("profile.yaml", content)
        ended = bare_knit("init", "profile.yaml")
        assert ended.code == 0, ended.err
        assert f"({API_ROOT})" in ended.err
        assert bare_knit("data", "find", cwd=bare_knit.cwd / "secrets").code == 0
        assert sent(api) == header
        assert api.requests[-1].url.userinfo == b""
    assert stat.S_IMODE(bare_knit.store.stat().st_mode) == 0o600


def _base64(text):
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("token: x\ntokenFile: y", "it has both `token` and `tokenFile`"),
        ('token: "a b"', "`token` is not a token"),
        ("token: 12345", "`token` is not a token"),
        ("tokenFile: []", "`tokenFile` is not the name of a file"),
        ("token: x\napiRoot: http://u:hidden@knit.test/api", "a token in `apiRoot`, and another"),
        ("apiRoot: ftp://u:hidden@knit.test/api", "'ftp://knit.test/api'"),
        ("token: hidden: x", "line 2, column"),
        ("token: hidden\x00", "not valid YAML"),
    ],
)
def test_tokens_that_a_profile_cannot_have(bare_knit, content, words):
    first = "" if "apiRoot" in content else f"apiRoot: {API_ROOT}\n"
    bare_knit.write("profile.yaml", first + content)
    ended = bare_knit("init", "profile.yaml")
    assert ended.code == 1
    assert words in ended.err
    assert "hidden" not in ended.err


@pytest.mark.parametrize("content", [None, "", "two words", "ü"])
def test_a_file_that_has_no_token(knit, api, content):
    file = knit.cwd / "token"
    if content is not None:
        file.write_text(content)
    save_profile(Profile(API_ROOT, token_file=file), store=knit.store, name=str(knit.cwd))
    ended = knit("data", "find")
    assert ended.code == 1
    assert str(file) in ended.err
    assert api.requests == []


@pytest.mark.parametrize("text", ["two words", "ünsigned", "a\nb"])
def test_an_environment_that_has_no_token(knit, api, text):
    knit.variables["KNIT_TOKEN"] = text
    ended = knit("data", "find")
    assert ended.code == 1
    assert "KNIT_TOKEN is not a token" in ended.err
    assert text not in ended.err
    assert api.requests == []


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("KNIT_TOKEN", "ask your knit's administrator for a new token, and put it into KNIT_TOKEN"),
        ("profile", "and put it into token in "),
        ("url", "and put it into apiRoot in "),
        ("file", "/token\n"),
        ("nothing", "log in with `knit login`, or put a token"),
    ],
)
def test_a_refused_token_says_what_to_do(knit, api, source, hint):
    file = knit.write("token", SECRET)
    profile = {
        "profile": Profile(API_ROOT, token=SECRET),
        "url": Profile(API_ROOT, user_info=f"knit:{SECRET}"),
        "file": Profile(API_ROOT, token_file=file),
    }.get(source, Profile(API_ROOT))
    save_profile(profile, store=knit.store, name=str(knit.cwd))
    if source == "KNIT_TOKEN":
        knit.variables["KNIT_TOKEN"] = SECRET
    api.interrupt[("GET", "/data")] = [error(401, "the token has been revoked", "the API's own")]
    ended = knit("data", "find")
    assert ended.code == 1
    assert "reason: the token has been revoked\n" in ended.err
    assert hint in ended.err
    assert SECRET not in ended.err
    assert SECRET not in repr(profile)


def test_a_role_that_is_not_enough_says_whom_to_ask(knit, api):
    api.interrupt[("GET", "/data")] = [error(403, "needs editor", "ask an admin for the role")]
    assert "hint: ask an admin for the role" in knit("data", "find").err
    api.interrupt[("GET", "/data")] = [httpx.Response(403, text="no")]
    assert "hint: ask your knit's administrator for access" in knit("data", "find").err


def test_a_login_page_in_between_is_no_answer_of_knit(knit, api):
    page = {"content-type": "text/html"}
    api.interrupt[("GET", "/data")] = [httpx.Response(401, text="<html>", headers=page)]
    assert "something in between" in knit("data", "find").err


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_does_not_take_the_token_along(knit, api, logged_in, status):
    elsewhere = []
    api.elsewhere = lambda request: elsewhere.append(request) or httpx.Response(200, json=[])
    knit.variables["KNIT_TOKEN"] = SECRET
    location = {"Location": "https://evil.example/api/data"}
    api.interrupt[("GET", "*")] = [httpx.Response(status, headers=location)] * 9
    assert knit("data", "find").code == 1
    assert knit("data", "pull", "some-id", "-").code == 1
    assert elsewhere == []


def test_bugs_are_reported_without_the_token(knit, api, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    knit.variables["KNIT_TOKEN"] = SECRET
    api.interrupt[("GET", "/data")] = [lambda _: 1 / 0]
    ended = knit("data", "find")
    [path] = [word for word in ended.err.split() if "knit-error" in word]
    with open(path) as file:  # noqa: PTH123
        assert SECRET not in file.read()


@pytest.mark.parametrize("content", ["[", "[]", "7", "\x00"])
def test_a_damaged_file_of_logins(knit, api, content):
    file = knit.home / ".knit" / "credentials"
    file.write_text(content)
    ended = knit("data", "find")
    assert ended.code == 1
    assert f"{file} is damaged" in ended.err
    assert "hint: remove it, then log in again" in ended.err


def test_a_file_of_logins_that_cannot_be_used(knit, provider, meant):
    file = knit.home / ".knit" / "credentials"
    file.mkdir()
    ended = knit("data", "find")
    assert ended.code == 1
    assert f"cannot read {file}" in ended.err
    file.rmdir()
    lock = file.with_name(".credentials.lock")
    lock.mkdir()
    ended = knit("login")
    assert ended.code == 1
    assert f"cannot write {file}" in ended.err


def test_entries_that_are_no_logins_do_not_matter(knit, api):
    file = knit.home / ".knit" / "credentials"
    for entry in (None, 7, {}, {"issuer": 1}):
        file.write_text(json.dumps({API_ROOT: entry}))
        assert knit("data", "find").code == 0
        assert sent(api) is None


def test_where_the_store_is_named_the_logins_are_beside_it(knit, provider, meant, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    knit.store.rename(folder / "store")
    common = ["--profile-store", str(folder / "store"), "--profile", str(knit.cwd)]
    assert knit("login", *common).code == 0
    assert (folder / "credentials").exists()
    assert yaml.safe_load((folder / "store").read_text()) == {str(knit.cwd): {"apiRoot": API_ROOT}}


# ------------------------------------------------------------ Ctrl-C


class SlowProvider(http.server.BaseHTTPRequestHandler):
    """Has used the refresh token up, and takes its time to give the next one."""

    asked = threading.Event()
    going_on = threading.Event()

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        SlowProvider.asked.set()
        assert SlowProvider.going_on.wait(PATIENCE)
        body = json.dumps(tokens("next")).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments):
        pass


@pytest.mark.patient
def test_ctrl_c_does_not_lose_the_next_refresh_token(knit, logged_in):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), SlowProvider) as server:
        threading.Thread(target=server.serve_forever).start()
        address = f"http://127.0.0.1:{server.server_port}"
        logged_in(expires_in=0, issuer=address, token_endpoint=f"{address}/token")
        process = subprocess.Popen(
            [sys.executable, "-m", "knit_cli", "data", "find"],
            cwd=knit.cwd,
            env=bare_environment(HOME=str(knit.home)),
            stderr=subprocess.PIPE,
            text=True,
            # Tests run in the background of a shell have SIGINT ignored, and hand that on.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        assert SlowProvider.asked.wait(PATIENCE)
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)  # it has to be heard before the answer comes
        SlowProvider.going_on.set()
        _, err = process.communicate(timeout=PATIENCE)
        server.shutdown()
    assert process.returncode == 1
    assert err.strip() == "interrupted"
    assert credentials(knit).find(API_ROOT).refresh_token == "refresh-next"
