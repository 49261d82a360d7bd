"""What spans say of what fails: its type, not its text, which may quote a secret."""

from __future__ import annotations

import pytest

from knit_workflows import tracing
from tests.otlp import traced
from tests.unit.hooks.conftest import MESSAGE, Callers
from tests.unit.hooks.receiver import Script, receiving, saying

SECRET = "T0PSECRET"
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (saying(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "ClientResponseError"),
        (saying(OK + b"Content-Length: x\r\n\r\n"), "ClientResponseError"),
        (saying(OK + b"Content-Length: 9\r\n\r\nx"), "ClientPayloadError"),
    ],
)
@pytest.mark.patient
async def test_the_url_of_a_hook_that_fails_is_in_no_span(
    caller_with: Callers, monkeypatch: pytest.MonkeyPatch, script: Script, kind: str
) -> None:
    """The HTTP client's errors quote it."""
    with traced(monkeypatch) as collected:
        async with receiving(script) as receiver:
            answer = await caller_with().call(receiver.url(f"/{SECRET}?key={SECRET}"), MESSAGE)
        tracing.stop()
    assert not answer.succeeded
    [span] = collected.spans
    assert SECRET not in span.whole
    assert span.attributes == {"server.address": "127.0.0.1", "error.type": kind}
    assert "STATUS_CODE_ERROR" in span.whole


@pytest.mark.patient
def test_nor_is_what_an_error_of_a_request_quotes(monkeypatch: pytest.MonkeyPatch) -> None:
    with traced(monkeypatch) as collected:
        with (
            pytest.raises(LookupError),
            tracing.serving("GET", [(b"authorization", SECRET.encode())]),
        ):
            raise LookupError(f"no answer from https://idp.example/?code={SECRET}")
        tracing.stop()
    [span] = collected.spans
    assert SECRET not in span.whole
    assert span.attributes["error.type"] == "LookupError"
    assert "STATUS_CODE_ERROR" in span.whole
