"""Tokens of an identity provider: who they authenticate, and what does not get in."""

from __future__ import annotations

import asyncio
import hmac
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from knit_api.accounts.issuer import (
    FAILURE_PAUSE_SECONDS,
    FRESH_SECONDS,
    PAUSE_SECONDS,
    STALE_SECONDS,
    WAIT_SECONDS,
)
from knit_api.accounts.oidc import MAX_TOKEN_CHARS, OidcVerifier, issuer_client
from knit_api.accounts.verifiers import NoRole, TokenRefused
from knit_workflows.domain.accounts.principals import Role
from knit_workflows.domain.errors import Unavailable
from knit_workflows.domain.tags import parse_tag
from knit_workflows.settings import AccountSettings, SettingsRefused, read_settings
from tests.api.issuers import (
    AUDIENCE,
    CONFIGURATION,
    ISSUER,
    KEYS_AT,
    Issuer,
    claims,
    forged,
    part,
    private_key,
    public_jwk,
    signed,
    token,
)

USUAL = {
    "oidc_issuer": ISSUER,
    "oidc_client_id": AUDIENCE,
    "oidc_roles": {"ml-team": "editor", "guests": "viewer", "ops": "admin"},
    "oidc_projects": {"ml-team": ["project:x"], "lab": ["project:y", "site: 1"]},
}


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def verifier_with(issuer: Issuer) -> Callable[..., OidcVerifier]:
    def made(**more: object) -> OidcVerifier:
        settings = AccountSettings.model_validate({**USUAL, **more})
        return OidcVerifier(settings, issuer.client(), clock=lambda: issuer.now)

    return made


@pytest.fixture
def verifier(verifier_with: Callable[..., OidcVerifier]) -> OidcVerifier:
    return verifier_with()


async def refused(verifier: OidcVerifier, text: str) -> str:
    with pytest.raises(TokenRefused) as caught:
        await verifier.verify(text)
    assert not isinstance(caught.value, NoRole)
    assert text not in caught.value.reason
    return caught.value.reason


async def without_role(verifier: OidcVerifier, text: str) -> str:
    with pytest.raises(NoRole) as caught:
        await verifier.verify(text)
    return caught.value.reason


async def unavailable(verifier: OidcVerifier, text: str) -> str:
    with pytest.raises(Unavailable) as caught:
        await verifier.verify(text)
    assert ISSUER in caught.value.reason
    return caught.value.reason


# ------------------------------------------------------------ who it is


async def test_a_valid_token_gives_subject_name_role_and_projects(verifier: OidcVerifier) -> None:
    end = int(time.time()) + 300
    who = await verifier.verify(token(exp=end))
    assert who is not None
    assert (who.subject, who.name, who.role) == ("oidc:7f3c", "ada", Role.EDITOR)
    assert who.projects == {parse_tag("project:x")}
    assert who.expires == datetime.fromtimestamp(end, UTC) + timedelta(seconds=60)


@pytest.mark.parametrize(
    "algorithm", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512",
                  "EdDSA"],
)  # fmt: skip
async def test_every_public_key_signature_of_jose(
    verifier: OidcVerifier, issuer: Issuer, algorithm: str
) -> None:
    issuer.keys = [public_jwk("other"), public_jwk(algorithm, algorithm)]
    assert await verifier.verify(token(algorithm, algorithm))
    bare = public_jwk(algorithm, algorithm)
    issuer.keys, issuer.now = [{**bare, "alg": None, "kid": "bare"}], issuer.now + PAUSE_SECONDS
    del issuer.keys[0]["alg"], issuer.keys[0]["use"]
    assert await verifier.verify(token(algorithm, algorithm, head={"kid": "bare"}))


async def test_a_key_without_an_id_is_found_if_it_is_the_only_one(
    verifier: OidcVerifier, issuer: Issuer
) -> None:
    assert await verifier.verify(token(head={"kid": None}))
    issuer.keys.append(public_jwk("two"))
    issuer.now += FRESH_SECONDS + 1
    await verifier.verify(token())  # reads the keys behind the scenes
    await asyncio.sleep(0.05)
    assert "with no key id" in await refused(verifier, token(head={"kid": None}))


@pytest.mark.parametrize("text", ["knit_abc", "a.b", "a.b.c.d.e", "", "opaque"])
async def test_what_has_not_three_parts_is_of_another_kind(
    verifier: OidcVerifier, issuer: Issuer, text: str
) -> None:
    assert await verifier.verify(text) is None
    assert issuer.requests == []


async def test_the_highest_role_counts_and_all_projects(verifier: OidcVerifier) -> None:
    who = await verifier.verify(token(groups=["guests", "ops", "ml-team", "lab", 7, None]))
    assert who is not None
    assert who.role is Role.ADMIN
    assert who.projects == {parse_tag(one) for one in ("project:x", "project:y", "site:1")}
    who = await verifier.verify(token(groups="guests"))
    assert who is not None
    assert (who.role, who.projects) == (Role.VIEWER, frozenset())


async def test_groups_and_names_may_be_anywhere(
    verifier_with: Callable[..., OidcVerifier],
) -> None:
    deep = verifier_with(oidc_groups_claim="realm_access.roles", oidc_name_claim="email")
    who = await deep.verify(token(realm_access={"roles": ["guests"]}, email="ada@lab.example"))
    assert who is not None
    assert (who.role, who.name) == (Role.VIEWER, "ada@lab.example")
    named = verifier_with(oidc_groups_claim="https://lab.example/groups")
    who = await named.verify(token(**{"https://lab.example/groups": ["ops"]}))
    assert who is not None
    assert who.role is Role.ADMIN


@pytest.mark.parametrize(
    ("name", "shown"),
    [(None, "7f3c"), ("", "7f3c"), (7, "7f3c"), ("a\x1b[2J\nda", "a[2Jda"), ("x" * 500, "x" * 100)],
)
async def test_a_name_is_for_people(verifier: OidcVerifier, name: object, shown: str) -> None:
    who = await verifier.verify(token(preferred_username=name))
    assert who is not None
    assert who.name == shown


async def test_an_audience_of_its_own(verifier_with: Callable[..., OidcVerifier]) -> None:
    verifier = verifier_with(oidc_audience="api://knit")
    assert await verifier.verify(token(aud=["other", "api://knit"]))
    assert "'api://knit'" in await refused(verifier, token())


# ------------------------------------------------------------ no role


async def test_without_a_group_that_has_a_role(verifier: OidcVerifier) -> None:
    reason = await without_role(verifier, token(groups=["other", "ML-Team"]))
    assert reason.startswith("ada is in 'other', 'ML-Team', and no such group has a role")
    assert "KNIT_ACCOUNTS__OIDC_ROLES" in reason
    assert "ada is in no group" in await without_role(verifier, token(groups=[]))
    many = await without_role(verifier, token(groups=[f"g{n}" for n in range(50)]))
    assert "'g9', …, and no" in many
    assert "g10" not in many


async def test_without_groups_at_all(verifier: OidcVerifier) -> None:
    reason = await without_role(verifier, token(groups=None))
    assert "it has no claim 'groups'" in reason
    assert "KNIT_ACCOUNTS__OIDC_GROUPS_CLAIM" in reason
    assert "is not a list of groups" in await without_role(verifier, token(groups={"a": 1}))


@pytest.mark.parametrize("hint", [{"_claim_names": {"groups": "src1"}}, {"hasgroups": True}])
async def test_with_too_many_groups_for_a_token(verifier: OidcVerifier, hint: dict) -> None:
    reason = await without_role(verifier, token(groups=None, **hint))
    assert "in more groups than the identity provider puts into a token" in reason


# ------------------------------------------------------------ claims that do not hold


async def test_times_hold_with_a_minute_of_leeway(verifier: OidcVerifier) -> None:
    now = int(time.time())
    assert await verifier.verify(token(exp=now - 30))
    assert await verifier.verify(token(nbf=now + 30, iat=now + 30))
    assert await refused(verifier, token(exp=now - 90)) == "the token has expired"
    for early in ({"nbf": now + 90}, {"iat": now + 90}):
        assert "not valid yet" in await refused(verifier, token(**early))


@pytest.mark.parametrize("claim", ["exp", "aud", "sub"])
async def test_what_a_token_must_have(verifier: OidcVerifier, claim: str) -> None:
    assert repr(claim) in await refused(verifier, token(**{claim: None}))


@pytest.mark.parametrize("aud", ["other", ["other"], [], "", "knit", "knit-cli ", ["KNIT-CLI"]])
async def test_tokens_for_others(verifier: OidcVerifier, aud: object) -> None:
    said = await refused(verifier, token(aud=aud))
    assert "for others" in said or said == "the token has no 'aud'"


@pytest.mark.parametrize(
    "iss", ["https://evil.example", f"{ISSUER}/", ISSUER.upper(), f"{ISSUER}\x00", "", None, 7, []]
)
async def test_tokens_of_others(verifier: OidcVerifier, issuer: Issuer, iss: object) -> None:
    text = forged({"alg": "RS256", "kid": "one"}, claims(iss=iss))
    assert "the token was issued by" in await refused(verifier, text)
    assert issuer.requests == []


@pytest.mark.parametrize("sub", ["", "a\nb", "x" * 256, 7, {}])
async def test_subjects_that_are_none(verifier: OidcVerifier, sub: object) -> None:
    text = token(sub=sub) if isinstance(sub, str) else signed(claims(sub=sub))
    assert "sub" in (await refused(verifier, text)).lower()


@pytest.mark.parametrize(
    "broken", [{"exp": 1e400}, {"exp": "soon"}, {"exp": []}, {"nbf": {}}, {"iat": "now"}]
)
async def test_claims_that_make_no_sense(verifier: OidcVerifier, broken: dict) -> None:
    assert "not valid" in await refused(verifier, signed(claims(**broken)))


# ------------------------------------------------------------ forgeries


@pytest.mark.parametrize("name", ["none", "None", "NONE", "", None, 0, [], "HS256", "RS1", "dir"])
async def test_only_signatures_with_public_keys(
    verifier: OidcVerifier, issuer: Issuer, name: object
) -> None:
    for signature in (b"", b"x" * 256):
        text = forged({"alg": name, "kid": "one"}, claims(), signature)
        assert "knit knows RS256" in await refused(verifier, text)
    assert issuer.requests == []


@pytest.mark.parametrize("bits", ["256", "384", "512"])
async def test_the_public_key_is_no_shared_secret(verifier: OidcVerifier, bits: str) -> None:
    """Algorithm confusion: an HMAC keyed with what everybody knows."""
    public = private_key("one").public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    text = f"{part({'alg': f'HS{bits}', 'kid': 'one'})}.{part(claims())}"
    for secret in (pem, pem.strip(), der, b""):
        mac = hmac.digest(secret, text.encode(), f"sha{bits}")
        assert "knit knows RS256" in await refused(verifier, f"{text}.{part(mac)}")


async def test_a_shared_secret_among_the_keys_is_not_used(
    verifier: OidcVerifier, issuer: Issuer
) -> None:
    issuer.keys = [{"kty": "oct", "kid": "one", "k": part(b"secret" * 8), "alg": "RS256"}]
    assert "does not have" in await refused(verifier, token())


@pytest.mark.parametrize("name", ["jwk", "jku", "x5u", "x5c", "x5t"])
async def test_keys_that_a_token_brings_along_are_not_used(
    verifier: OidcVerifier, issuer: Issuer, name: str
) -> None:
    jwk = public_jwk("mallory")
    brought = {"jwk": jwk, "x5c": ["MIIB"], "x5t": "abc"}.get(name, "https://evil.example/keys")
    head = {name: brought}
    assert "does not have" in await refused(verifier, token("mallory", head=head))
    text = token("mallory", head={**head, "kid": "one"})
    assert "signature" in await refused(verifier, text)
    assert await verifier.verify(token(head=head)), "it is signed by the issuer all the same"
    assert set(issuer.requests) == {CONFIGURATION, KEYS_AT}


async def test_a_key_serves_its_own_algorithm_only(verifier: OidcVerifier, issuer: Issuer) -> None:
    issuer.keys = [public_jwk("one", alg="RS512"), public_jwk("curve", "ES384")]
    assert "does not have" in await refused(verifier, token())
    for algorithm in ("ES256", "ES512", "EdDSA", "RS256", "PS256"):
        text = token("curve", algorithm)
        assert "does not have" in await refused(verifier, text)


@pytest.mark.parametrize(
    "more", [{"use": "enc"}, {"key_ops": ["sign"]}, {"key_ops": "verify"}, {"n": "!"}, {"e": None}]
)
async def test_keys_that_are_for_something_else_or_none(
    verifier: OidcVerifier, issuer: Issuer, more: dict
) -> None:
    issuer.keys = [7, None, public_jwk("one", **more)]
    assert "does not have" in await refused(verifier, token())


async def test_a_key_that_is_too_short_is_not_used(verifier: OidcVerifier, issuer: Issuer) -> None:
    issuer.keys = [public_jwk("short", bits=1024)]
    text = forged({"alg": "RS256", "kid": "short"}, claims())
    assert "does not have" in await refused(verifier, text)


async def test_what_is_changed_is_no_longersigned(verifier: OidcVerifier) -> None:
    head, payload, signature = token().split(".")
    for text in (
        f"{head}.{part(claims(groups=['ops']))}.{signature}",
        f"{head}.{payload}.{part(b'x' * 256)}",
        f"{head}.{payload}.",
        f"{part({'alg': 'RS384', 'kid': 'one'})}.{payload}.{signature}",
    ):
        await refused(verifier, text)


@pytest.mark.parametrize(
    "text",
    [
        "..",
        "a.b.c",
        "\ud800.b.c",
        "ü.ü.ü",
        forged(b"\xff\xfe", {}),
        forged([], {}),
        forged({"alg": "RS256"}, []),
        forged({"alg": "RS256", "kid": 7}, claims()),
        forged({"alg": "RS256", "kid": ["one"]}, claims()),
        forged(b"[" * 5000, {}),
        forged({"alg": "RS256"}, b"[" * 5000),
        forged(b'{"alg":' + b"9" * 6000 + b"}", {}),
    ],
    ids=range(12),
)
async def test_what_is_no_token_at_all(verifier: OidcVerifier, issuer: Issuer, text: str) -> None:
    await refused(verifier, text)
    assert issuer.requests == []


async def test_a_huge_token_is_not_looked_at(verifier: OidcVerifier, issuer: Issuer) -> None:
    text = token(groups=["ml-team", *(f"group-{n}" for n in range(2000))])
    assert len(text) > MAX_TOKEN_CHARS
    assert f"more than {MAX_TOKEN_CHARS}" in await refused(verifier, text)
    assert issuer.requests == []


async def test_other_things_that_the_issuer_signs_are_no_tokens(verifier: OidcVerifier) -> None:
    for kind in ("logout+jwt", "secevent+jwt", "dpop+jwt", 7):
        assert "not a token for an API" in await refused(verifier, token(head={"typ": kind}))
    for kind in ("JWT", "at+jwt", "application/at+JWT", None):
        assert await verifier.verify(token(head={"typ": kind}))


async def test_extensions_that_must_be_understood_are_not(verifier: OidcVerifier) -> None:
    head = {"alg": "RS256", "kid": "one", "crit": ["exp"], "exp": 1}
    await refused(verifier, signed(claims(), head))


# ------------------------------------------------------------ keys and their rotation


async def test_keys_are_read_once_and_again_when_they_are_old(
    verifier: OidcVerifier, issuer: Issuer
) -> None:
    await asyncio.gather(*(verifier.verify(token()) for _ in range(20)))
    assert issuer.requests == [CONFIGURATION, KEYS_AT]
    issuer.now += FRESH_SECONDS
    await verifier.verify(token())
    assert issuer.reads == 1
    issuer.now += 1
    issuer.keys = [public_jwk("two")]
    assert await verifier.verify(token()), "nobody waits for that"
    await asyncio.sleep(0.05)
    assert issuer.reads == 2
    assert "does not have" in await refused(verifier, token()), "it has been taken back"


async def test_a_key_that_was_taken_back_opens_no_idle_api(
    verifier: OidcVerifier, issuer: Issuer
) -> None:
    await verifier.verify(token())
    issuer.keys = [public_jwk("two")]
    issuer.now += 3600
    assert "does not have" in await refused(verifier, token())
    assert await verifier.verify(token("two"))
    assert issuer.reads == 2


async def test_a_new_key_is_found_at_once(verifier: OidcVerifier, issuer: Issuer) -> None:
    await verifier.verify(token())
    issuer.keys = [public_jwk("two")]
    issuer.now += PAUSE_SECONDS
    assert await verifier.verify(token("two"))
    assert issuer.reads == 2


async def test_unknown_keys_do_not_make_us_hammer_the_issuer(
    verifier: OidcVerifier, issuer: Issuer
) -> None:
    await verifier.verify(token())
    issuer.now += PAUSE_SECONDS
    flood = [forged({"alg": "RS256", "kid": f"k{n}"}, claims()) for n in range(500)]
    ended = await asyncio.gather(*map(verifier.verify, flood), return_exceptions=True)
    assert all(isinstance(one, TokenRefused) for one in ended)
    assert issuer.reads == 2
    assert await verifier.verify(token()), "others are served meanwhile"
    assert issuer.reads == 2


# ------------------------------------------------------------ the issuer is away


def _down(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("connection refused")


async def test_an_issuer_that_is_away_is_no_fault_of_the_token(
    verifier: OidcVerifier, issuer: Issuer
) -> None:
    issuer.trouble = _down
    assert "connection refused" in await unavailable(verifier, token())
    assert "connection refused" in await unavailable(verifier, token())
    assert len(issuer.requests) == 1, "it is not asked by every request"
    issuer.trouble = None
    issuer.now += FAILURE_PAUSE_SECONDS
    assert await verifier.verify(token())


async def test_keys_outlive_their_issuer_for_a_day(verifier: OidcVerifier, issuer: Issuer) -> None:
    await verifier.verify(token())
    issuer.trouble = _down
    for _ in range(3):
        issuer.now += FRESH_SECONDS + 1
        assert await verifier.verify(token())
        await asyncio.sleep(0.02)
    assert "connection refused" in await unavailable(verifier, token("two"))
    issuer.now += STALE_SECONDS
    await unavailable(verifier, token())


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (lambda _: httpx.Response(503), "answers 503"),
        (lambda _: httpx.Response(302, headers={"Location": "https://evil"}), "answers 302"),
        (lambda _: httpx.Response(200, text="<html>"), "not a JSON object"),
        (lambda _: httpx.Response(200, content=b"[" * 100_000), "not a JSON object"),
        (lambda _: httpx.Response(200, json=[]), "not a JSON object"),
        (lambda _: httpx.Response(200, content=b" " * ((1 << 20) + 1)), "longer than"),
        (lambda _: httpx.Response(200, json={"issuer": f"{ISSUER}/"}), "to the last character"),
        (lambda _: httpx.Response(200, json={"issuer": ISSUER}), "jwks_uri"),
        (
            lambda _: httpx.Response(200, json={"issuer": ISSUER, "jwks_uri": "http://x/keys"}),
            "it is http",
        ),
    ],
)
async def test_answers_that_are_none(verifier, issuer, trouble, words) -> None:
    issuer.trouble = trouble
    assert words in await unavailable(verifier, token())


async def test_a_list_of_keys_that_is_none(verifier: OidcVerifier, issuer: Issuer) -> None:
    issuer.keys = None  # type: ignore[assignment]
    assert "is not a list of keys" in await unavailable(verifier, token())


async def test_an_issuer_that_hangs_is_waited_for_once_by_whoever_has_a_known_key(
    issuer: Issuer, monkeypatch
) -> None:
    """Old keys are of no use before, and others do not wait each time while it goes on."""
    hangs, asked = False, []

    async def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if hangs:
            await asyncio.sleep(100)
        return issuer.handle(request)

    monkeypatch.setattr("knit_api.accounts.issuer._FETCH_SECONDS", 0.05)
    http = httpx.AsyncClient(transport=httpx.MockTransport(handle))
    settings = AccountSettings.model_validate(USUAL)
    verifier = OidcVerifier(settings, http, clock=lambda: issuer.now)
    await verifier.verify(token())
    hangs = True
    issuer.now += WAIT_SECONDS + 1
    took = time.monotonic()
    assert await verifier.verify(token())
    assert time.monotonic() - took >= 0.05
    issuer.now += FAILURE_PAUSE_SECONDS
    monkeypatch.setattr("knit_api.accounts.issuer._FETCH_SECONDS", 100)
    before = len(asked)
    assert await verifier.verify(token())
    await asyncio.sleep(0.01)
    assert len(asked) == before + 1, "it is asked behind the scenes"
    await verifier.aclose()


async def test_an_issuer_that_hangs(verifier_with, issuer: Issuer, monkeypatch) -> None:
    async def hang(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(100)
        raise AssertionError("unreachable")

    monkeypatch.setattr("knit_api.accounts.issuer._FETCH_SECONDS", 0.05)
    settings = AccountSettings.model_validate(USUAL)
    http = httpx.AsyncClient(transport=httpx.MockTransport(hang))
    verifier = OidcVerifier(settings, http)
    assert "no answer within" in await unavailable(verifier, token())
    await verifier.aclose()


async def test_closing_ends_what_is_under_way(verifier: OidcVerifier, issuer: Issuer) -> None:
    await verifier.verify(token())
    issuer.now += FRESH_SECONDS + 1
    await verifier.verify(token())
    await verifier.aclose()
    assert verifier._http.is_closed


# ------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"OIDC_ISSUER": "http://login.example"}, "it is http"),
        ({"OIDC_ISSUER": "login.example"}, "not an absolute https URL"),
        ({"OIDC_ISSUER": "https://login.example:port"}, "ort"),
        ({"OIDC_ISSUER": "https://u:p@login.example"}, "a user, a password"),
        ({"OIDC_CLIENT_ID": ""}, "OIDC_CLIENT_ID or OIDC_AUDIENCE"),
        ({"OIDC_ROLES": "{}"}, "or nobody has a role"),
        ({"OIDC_ROLES": '{"a": "king"}'}, "'viewer'"),
        ({"OIDC_PROJECTS": '{"a": ["no-colon"]}'}, "group 'a': the tag 'no-colon' has no ':'"),
        ({"OIDC_PROJECTS": '{"b": ["p:x"], "a": []}'}, "group 'a' has no tag: write at least one"),
        ({"OIDC_PROJECTS": '{"a": ["p:x", "knit#id: 1"]}'}, "'knit#id:1' is a tag of knit's own"),
    ],
)
def test_settings_that_are_not_complete(monkeypatch, variables, words) -> None:
    usual = {"OIDC_ISSUER": ISSUER, "OIDC_CLIENT_ID": "c", "OIDC_ROLES": '{"a": "viewer"}'}
    for name, value in {**usual, **variables}.items():
        if value:
            monkeypatch.setenv(f"KNIT_ACCOUNTS__{name}", value)
    with pytest.raises(SettingsRefused, match="KNIT_ACCOUNTS") as refused:
        read_settings()
    assert words in str(refused.value)


def test_a_file_of_authorities_that_is_none(tmp_path) -> None:
    file = tmp_path / "ca.pem"
    for content in (None, "nothing"):
        if content is not None:
            file.write_text(content)
        settings = AccountSettings.model_validate({**USUAL, "oidc_ca_file": file})
        with pytest.raises(SettingsRefused, match="no usable certificates"):
            issuer_client(settings)


async def test_a_file_of_authorities(tmp_path) -> None:
    file = tmp_path / "ca.pem"
    new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command = ["openssl", *new, "-keyout", tmp_path / "key", "-out", file, "-subj", "/CN=x"]
    subprocess.run(command, check=True, capture_output=True)
    settings = AccountSettings.model_validate({**USUAL, "oidc_ca_file": file})
    await issuer_client(settings).aclose()
