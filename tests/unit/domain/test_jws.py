"""Signed tokens: RFC 7515's own example, and everything that is none."""

from __future__ import annotations

import base64
import json

import pytest

from knit_workflows.domain.accounts import jws
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.imports import Import, import_of

SECRET = bytes(range(256))
KNIT_ID = KnitId("11111111-1111-4111-8111-111111111111")
RUN_ID = RunId("22222222-2222-4222-8222-222222222222")
BEGUN = Import(RUN_ID, KNIT_ID, f"data-knitid-{KNIT_ID}")


def part(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def token(header: object, claims: object = None) -> str:
    return f"{part(header)}.{part(claims or {})}.{part(bytes(32))}"


def test_the_example_of_the_rfc_verifies() -> None:
    """Appendix A.1."""
    signed = (
        "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQog"
        "Imh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
    )
    signature = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"
    secret = base64.urlsafe_b64decode(key + "==")
    example = jws.Token("", {}, signed.encode(), base64.urlsafe_b64decode(signature + "="))
    jws.verify(example, secret)
    with pytest.raises(jws.BadToken):
        jws.verify(example, secret + b"\0")


def test_a_token_tells_what_was_signed() -> None:
    text = jws.sign(BEGUN.claims(), kid="the key", secret=SECRET)
    header, claims, _ = text.split(".")
    assert json.loads(base64.urlsafe_b64decode(header + "==")) == {
        "alg": "HS256",
        "kid": "the key",
        "typ": "JWT",
    }
    plain = json.loads(base64.urlsafe_b64decode(claims + "=="))
    ours = {"knit/actor", "knit/projects"}
    assert set(plain) == {"jti", "sub", "knitfab/knitId", "knitfab/runId", *ours}
    assert plain["sub"] == BEGUN.volume
    read = jws.read(text)
    jws.verify(read, SECRET)
    assert read.kid == "the key"
    assert import_of(read.claims) == BEGUN
    assert BEGUN.claims()["jti"] != plain["jti"]


def test_no_changed_character_verifies() -> None:
    """Wherever it is."""
    text = jws.sign(BEGUN.claims(), kid="k", secret=SECRET)
    for place, character in enumerate(text):
        other = "A" if character != "A" else "B"
        with pytest.raises(jws.BadToken):
            jws.verify(jws.read(text[:place] + other + text[place + 1 :]), SECRET)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.b",
        "a.b.c.d",
        "..",
        token({"alg": "none", "kid": "k"}),
        token({"alg": "HS512", "kid": "k"}),
        token({"alg": "hs256", "kid": "k"}),
        token({"kid": "k"}),
        token({"alg": "HS256"}),
        token({"alg": "HS256", "kid": 1}),
        *(
            token({"alg": "HS256", "kid": kid})
            for kid in ("", "k\0", "\ud800", "k\n", "é", "k" * 256)
        ),
        token({"alg": "HS256", "kid": "k", "crit": ["exp"]}),
        token([]),
        token(b"{"),
        token({"alg": "HS256", "kid": "k"}, [1]),
        token({"alg": "HS256", "kid": "k"}, b"\xff"),
        token({"alg": "HS256", "kid": "k"}, b"[" * 3000),
        token({"alg": "HS256", "kid": "k"}) + "=",
        token({"alg": "HS256", "kid": "k"}) + "+",
        token({"alg": "HS256", "kid": "k"}) + "ü",
        token({"alg": "HS256", "kid": "k"})[:-1] + "B",
        token({"alg": "HS256", "kid": "k"}, {"x": "y" * 9000}),
        f"{token({'alg': 'HS256', 'kid': 'k'})}\n",
    ],
)
def test_what_is_no_token_of_ours_is_refused(text: str) -> None:
    with pytest.raises(jws.BadToken):
        jws.read(text)


@pytest.mark.parametrize(
    "changed",
    [
        {"sub": None},
        {"sub": 1},
        {"knitfab/knitId": "no id"},
        {"knitfab/runId": "../x"},
        {"knitfab/runId": ["a"]},
    ],
)
def test_claims_of_something_else_are_refused(changed: dict[str, object]) -> None:
    with pytest.raises(jws.BadToken):
        import_of({**BEGUN.claims(), **changed})
