"""`knit login` against a certified identity provider, and an API that knows its users.

Everything is real and on loopback: the provider (see tests/identity_provider), the API as a
process, its users' browser by HTTP.
"""

from __future__ import annotations

import base64
import json
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from knit_cli.config.profile import Profile, save_profile
from knit_cli.invocation import Surroundings
from knit_cli.main import run
from tests.api.test_processes import NOBODY, Api, api
from tests.cli.conftest import Ended
from tests.identity_provider import CLIENT_ID, IdentityProvider, identity_provider
from tests.processes import bare_environment
from tests.waiting import PATIENCE

pytestmark = pytest.mark.patient

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
ROLES = {"ml-team": "editor", "ops": "admin"}


def accounts(provider: IdentityProvider, **more: str) -> dict[str, str]:
    settings = {
        "REQUIRED": "true",
        "OIDC_ISSUER": provider.issuer,
        "OIDC_CLIENT_ID": CLIENT_ID,
        "OIDC_ROLES": json.dumps(ROLES),
        "OIDC_PROJECTS": json.dumps({"ml-team": ["project:x"]}),
        **more,
    }
    return {f"KNIT_ACCOUNTS__{name}": value for name, value in settings.items()} | NOBODY


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IdentityProvider]:
    """Its tokens are so short-lived that every command renews the login."""
    with identity_provider(tmp_path_factory.mktemp("provider"), lifetime=20) as one:
        yield one


@pytest.fixture(scope="module")
def server(provider: IdentityProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with api(tmp_path_factory.mktemp("api"), **accounts(provider)) as one:
        yield one


class User:
    """A user with a home of their own, whose browser does as told."""

    def __init__(self, folder: Path, api_root: str, capture: pytest.CaptureFixture[bytes]) -> None:
        self.home = folder
        self.store = folder / ".knit" / "profile"
        self.credentials = folder / ".knit" / "credentials"
        self.api_root = api_root
        self.opens: Callable[[str], object] = lambda url: None
        self.between: Callable[[], object] = lambda: None
        self.opened: list[str] = []
        self._capture = capture
        save_profile(Profile(api_root), store=self.store, name=str(folder))

    def __call__(self, *arguments: str, **variables: str) -> Ended:
        def open_browser(url: str) -> bool:
            self.opened.append(url)
            self.opens(url)
            return True

        def sleep(seconds: float) -> None:
            self.between()
            time.sleep(min(seconds, 0.05))

        surroundings = Surroundings(
            cwd=self.home,
            home=self.home,
            variables={"DISPLAY": ":1", **variables},
            sleep=sleep,
            open_browser=open_browser,
        )
        self._capture.readouterr()
        code = run(arguments, surroundings)
        out, err = self._capture.readouterr()
        for secret in self.secrets():
            assert secret not in out.decode() + err.decode()
        return Ended(code, out, err.decode())

    def saved(self) -> dict[str, object]:
        found = json.loads(self.credentials.read_bytes())
        login: dict[str, object] = found[self.api_root]
        return login

    def secrets(self) -> list[str]:
        if not self.credentials.exists():
            return []
        logins = json.loads(self.credentials.read_bytes()).values()
        return [one[name] for one in logins for name in ("token", "refresh_token") if one[name]]


@pytest.fixture
def user(tmp_path: Path, server: Api, capsysbinary: pytest.CaptureFixture[bytes]) -> User:
    return User(tmp_path, f"{server.url}/api", capsysbinary)


def posted(url: str, form: Mapping[str, object]) -> httpx.Response:
    return httpx.post(url, data=form, trust_env=False, timeout=PATIENCE)


def test_the_whole_walk(user: User, provider: IdentityProvider) -> None:
    ended = user("whoami")
    assert ended.code == 1
    assert "hint: log in with `knit login`" in ended.err

    user.opens = lambda url: provider.confirm(url, "ada:ml-team,others")
    ended = user("login")
    assert ended.code == 0, ended.err
    [opened] = user.opened
    code = re.search(r"confirm the code ([\w-]+)", ended.err)
    assert code is not None
    assert code[1] in opened
    assert "logged in: ada (oidc:ada:ml-team,others), role editor, in project:x" in ended.err
    assert stat.S_IMODE(user.credentials.stat().st_mode) == 0o600

    who = user("whoami").json
    assert (who["subject"], who["role"]) == ("oidc:ada:ml-team,others", "editor")

    # It has expired, by the clock of this machine: it is renewed, and refresh tokens rotate.
    before = user.saved()
    assert user("whoami").code == 0
    after = user.saved()
    assert after["token"] != before["token"]
    assert after["refresh_token"] != before["refresh_token"]

    # Another key signs from now on, and the old one is gone. Keys are read again for the new one.
    old = provider.keys()
    provider.rotate_keys()
    assert not set(old) & set(provider.keys())
    ended = user("whoami")
    until = time.monotonic() + PATIENCE
    while ended.code != 0:  # that is done every ten seconds at most
        assert "hint: log in again" in ended.err
        assert time.monotonic() < until
        time.sleep(1)
        ended = user("whoami")

    refresh_token = str(user.saved()["refresh_token"])
    ended = user("logout")
    assert ended.code == 0, ended.err
    assert f"{provider.issuer} has ended the session" in ended.err
    assert json.loads(user.credentials.read_bytes()) == {}
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token, "client_id": CLIENT_ID}
    answer = posted(f"{provider.issuer}/token", form)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    assert "hint: log in with `knit login`" in user("whoami").err
    assert "you are not logged in" in user("logout").err


def test_confirming_takes_its_time(user: User, provider: IdentityProvider) -> None:
    """And happens on another device: nothing is opened here."""
    pauses = iter(range(100))

    def confirm() -> None:
        if next(pauses) == 2:
            provider.confirm(f"{provider.issuer}/device?user_code={code()}", "eve:ops")

    def code() -> str:
        shown = user._capture.readouterr().err.decode()
        found = re.search(r"confirm the code ([\w-]+)", shown)
        assert found is not None
        return found[1]

    user.between = confirm
    ended = user("login", "--no-browser")
    assert ended.code == 0, ended.err
    assert user.opened == []
    assert "role admin" in ended.err
    assert next(pauses) > 2, "it has waited"


def test_saying_no(user: User, provider: IdentityProvider) -> None:
    user.opens = provider.deny
    ended = user("login")
    assert ended.code == 1
    assert "error: the login was denied" in ended.err
    assert not user.credentials.exists()


def test_a_user_without_a_role_is_told_so(user: User, provider: IdentityProvider) -> None:
    user.opens = lambda url: provider.confirm(url, "bob:others")
    ended = user("login")
    assert ended.code == 1
    assert "reason: bob is in 'others', and no such group has a role in this knit" in ended.err
    assert "hint: ask an admin of this knit for a role" in ended.err


def test_a_role_that_is_not_enough(user: User, provider: IdentityProvider) -> None:
    user.opens = lambda url: provider.confirm(url, "ada:ml-team")
    assert user("login").code == 0
    ended = user("admin", "token", "list")
    assert ended.code == 1
    assert "needs the role admin" in ended.err
    assert "hint: ask an admin for the role admin" in ended.err


def test_a_device_code_is_good_for_one_login(user: User, provider: IdentityProvider) -> None:
    asked = {"client_id": CLIENT_ID, "scope": "openid"}
    made = posted(f"{provider.issuer}/device/auth", asked).json()
    page = provider.confirm(made["verification_uri_complete"], "ada:ml-team")
    form = {
        "grant_type": DEVICE_GRANT,
        "device_code": made["device_code"],
        "client_id": CLIENT_ID,
    }
    answers = [posted(f"{provider.issuer}/token", form) for _ in range(2)]
    assert [one.status_code for one in answers] == [200, 400], page
    assert answers[1].json()["error"] == "invalid_grant"


def test_many_commands_at_once_do_not_lose_the_login(
    user: User, provider: IdentityProvider
) -> None:
    """The provider ends a login whose refresh token is used twice."""
    user.opens = lambda url: provider.confirm(url, "ada:ml-team")
    assert user("login").code == 0
    first = user.saved()["refresh_token"]
    command = [sys.executable, "-m", "knit_cli", "whoami"]
    environment = bare_environment(HOME=str(user.home))
    for _ in range(2):
        running = [
            subprocess.Popen(
                command,
                cwd=user.home,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for _ in range(4)
        ]
        ended = [one.communicate() for one in running]
        assert [one.returncode for one in running] == [0] * 4, ended
        assert {json.loads(out)["name"] for out, _ in ended} == {"ada"}
    assert user.saved()["refresh_token"] != first
    assert user("whoami").code == 0


def test_a_login_that_the_provider_has_ended(user: User, provider: IdentityProvider) -> None:
    user.opens = lambda url: provider.confirm(url, "ada:ml-team")
    assert user("login").code == 0
    form = {"token": user.saved()["refresh_token"], "client_id": CLIENT_ID}
    posted(f"{provider.issuer}/token/revocation", form)
    for _ in range(2):
        ended = user("data", "find")
        assert ended.code == 1
        assert "your login" in ended.err
        assert "hint: log in again: knit login" in ended.err


def test_access_tokens_for_an_audience_of_the_api(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    audience = "https://knit.example/api"
    folders = [tmp_path / name for name in ("provider", "api", "home")]
    for folder in folders:
        folder.mkdir()
    with (
        identity_provider(folders[0], audience=audience) as provider,
        api(folders[1], **accounts(provider, OIDC_AUDIENCE=audience)) as server,
    ):
        user = User(folders[2], f"{server.url}/api", capsysbinary)
        user.opens = lambda url: provider.confirm(url, "ada:ops")
        ended = user("login")
        assert ended.code == 0, ended.err
        assert "role admin" in ended.err
        saved = user.saved()
        assert saved["kind"] == "access_token"
        payload = str(saved["token"]).split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        assert claims["aud"] == audience
        assert user("whoami").json["role"] == "admin"
