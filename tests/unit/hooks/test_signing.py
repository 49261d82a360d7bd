"""Signatures as Standard Webhooks has them, and events as CloudEvents has them.

The libraries of JavaScript and Go check signatures in tests/docs/test_hooks_page.py.
"""

from __future__ import annotations

import base64
import json
import logging
import secrets
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from knit_workflows.hooks.envelope import cloud_event
from knit_workflows.hooks.failures import CallFailed
from knit_workflows.hooks.file import HooksFile
from knit_workflows.hooks.signing import read_secrets, signature_headers
from tests.unit.hooks.conftest import MESSAGE, Callers
from tests.unit.hooks.receiver import answer, receiving


def secret() -> str:
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"


def test_the_example_of_the_specification() -> None:
    """The vector that all reference libraries test with."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signature_headers(
        [key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@given(st.binary(min_size=24, max_size=64), st.text())
def test_the_library_believes_any_text(key: bytes, text: str) -> None:
    body = text.encode("utf-8", "replace")
    headers = signature_headers([key], "id", int(time.time()), body)
    webhook = Webhook(f"whsec_{base64.b64encode(key).decode()}")
    webhook.verify(body, headers, json_parse=False)
    with pytest.raises(WebhookVerificationError):
        webhook.verify(body + b" ", headers, json_parse=False)


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/St_Johns"])
@pytest.mark.parametrize("form", ["json", "cloudevents"])
async def test_what_is_sent_is_what_is_signed(
    caller_with: Callers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str, form: str
) -> None:
    """In any time zone; with one secret, and with two while they change."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    old, new = secret(), secret()
    file = tmp_path / "secrets"
    file.write_text(f"# ours\n{old}\n")
    caller = caller_with(secrets_file=file)
    caller.configure(HooksFile(format=form))  # type: ignore[arg-type]
    try:
        async with receiving(answer(200)) as receiver:
            assert (await caller.call(receiver.url(), MESSAGE)).succeeded
            file.write_text(f"{new}\r\n\r\n  {old}  \n")
            assert (await caller.call(receiver.url(), MESSAGE)).succeeded
            file.write_text(new)
            assert (await caller.call(receiver.url(), MESSAGE)).succeeded
    finally:
        monkeypatch.undo()
        time.tzset()
    known = [{old}, {new, old}, {new}]
    for heard, of_this_call in zip(receiver.heard, known, strict=True):
        assert heard.headers["webhook-id"] == MESSAGE.delivery_id
        assert heard.headers["webhook-timestamp"].isdecimal()
        assert len(heard.headers["webhook-signature"].split(" ")) == len(of_this_call)
        for one in (old, new):
            if one in of_this_call:
                told = Webhook(one).verify(heard.body, heard.headers)
                assert told.get("data", told) == MESSAGE.body
            else:
                with pytest.raises(WebhookVerificationError):
                    Webhook(one).verify(heard.body, heard.headers)


async def test_a_clock_that_jumps_while_hooks_are_called(
    caller_with: Callers, tmp_path: Path
) -> None:
    """Each attempt is signed by the time that it is then; how long it took is no matter of it."""
    now, hour = time.time(), 3600.0
    file = tmp_path / "secrets"
    file.write_text(one := secret())
    clock = iter([now, now + hour, now - hour, now]).__next__
    async with receiving(answer(200)) as receiver:
        caller = caller_with(clock=clock, secrets_file=file)
        answers = [await caller.call(receiver.url(), MESSAGE) for _ in range(4)]
    assert all(timedelta() < result.duration < timedelta(hours=1) for result in answers)
    stamps = [int(heard.headers["webhook-timestamp"]) for heard in receiver.heard]
    assert stamps == [int(now), int(now + hour), int(now - hour), int(now)]
    believed = []
    for heard in receiver.heard:
        try:
            Webhook(one).verify(heard.body, heard.headers)
        except WebhookVerificationError as refused:
            believed.append(str(refused))
        else:
            believed.append("yes")
    # Once both clocks are right again, an attempt is believed again.
    assert [words == "yes" for words in believed] == [True, False, False, True]


async def test_without_secrets_a_call_has_its_id_alone(caller_with: Callers) -> None:
    async with receiving(answer(200)) as receiver:
        await caller_with().call(receiver.url(), MESSAGE)
    ours = {name: value for name, value in receiver.heard[0].headers.items() if "webhook" in name}
    assert ours == {"webhook-id": MESSAGE.delivery_id}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "the file of secrets {} cannot be read by the hooks worker: No such file or "
         "directory"),
        ("\n# none\n", "the file of secrets {} has 0 secrets; put one into it, or two while you "
         "change them"),
        (3 * "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n", "the file of secrets {} has 3 secrets; "
         "put one into it, or two while you change them"),
        ("\nMfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n", "line 2 of {} is no secret: "),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS\n", "line 1 of {} is no secret: "),  # padding
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS-\n", "line 1 of {} is no secret: "),  # URL's base64
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZI\n", "line 1 of {} is no secret: "),  # too short
        (f"whsec_{base64.b64encode(bytes(65)).decode()}", "line 1 of {} is no secret: "),
        ("\x00\xff", "line 1 of {} is no secret: "),
    ],
)  # fmt: skip
async def test_secrets_that_cannot_be_used_stop_the_call_and_are_not_shown(
    caller_with: Callers,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    content: str | None,
    words: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "secrets"
    if content is not None:
        file.write_text(content, encoding="latin-1")
    with pytest.raises(CallFailed) as caught:
        read_secrets(file)
    assert caught.value.text.startswith(words.format(file))
    async with receiving(answer(200)) as receiver:
        result = await caller_with(secrets_file=file).call(receiver.url(), MESSAGE)
        assert not result.succeeded
        assert receiver.connections == 0
    for text in (result.text, caplog.text):
        assert "MfKQ" not in text


async def test_a_cloud_event_is_read_by_its_sdk(caller_with: Callers) -> None:
    caller = caller_with()
    caller.configure(HooksFile(format="cloudevents"))
    async with receiving(answer(200)) as receiver:
        await caller.call(receiver.url(), MESSAGE)
        (heard,) = receiver.heard
    # The SDK fills what is missing, so what has to be there is looked for first.
    assert set(json.loads(heard.body)) == {
        "specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data"
    }  # fmt: skip
    event = from_http_event(HTTPMessage(heard.headers, heard.body), JSONFormat())
    assert isinstance(event, CloudEvent)
    assert event.get_specversion() == "1.0"
    assert event.get_id() == MESSAGE.delivery_id
    assert event.get_source() == "/knit/runs"
    assert event.get_type() == "knit.run.before.starting"
    assert event.get_subject() == "r"
    assert event.get_time() == datetime(2024, 5, 17, 4, 19, 33, 325_000, UTC)
    assert event.get_datacontenttype() == "application/json"
    assert event.get_data() == MESSAGE.body


@pytest.mark.parametrize(("status", "kind"), [("starting", "after"), ("ready", "before")])
def test_the_type_of_an_event_says_when_it_was_sent(status: str, kind: str) -> None:
    event = cloud_event(MESSAGE.body | {"status": status}, "id")
    assert event["type"] == f"knit.run.{kind}.starting"
