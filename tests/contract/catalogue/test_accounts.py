"""`TokenStore` and `AuditStore`: what is kept of tokens, and a log that only grows."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from knit_workflows.domain.accounts.principals import AuditQuery, AuditRecord, NewToken, Role
from knit_workflows.domain.accounts.tokens import digest_of, new_token, shown_prefix
from knit_workflows.domain.errors import TokenExists, TokenNotFound
from knit_workflows.domain.tags import Tag
from tests.contract.catalogue.conftest import AnyStore


def token(name: str = "ci", *, role: Role = Role.EDITOR, lasts: float | None = None) -> NewToken:
    """A token with that name, which lasts for so many seconds (None: for ever)."""
    text = new_token()
    expires = None if lasts is None else datetime.now(UTC) + timedelta(seconds=lasts)
    return NewToken(name, role, digest_of(text), shown_prefix(text), "alice", expires_at=expires)


def request(actor: str = "alice", **more: object) -> AuditRecord:
    known = {"method": "PUT", "route": "/api/runs/{run_id}/abort", "targets": {"run_id": "1"}}
    return AuditRecord(
        subject=f"token:{actor}",
        actor=actor,
        address="192.0.2.1",
        **(known | more),  # type: ignore[arg-type]
    )


async def test_a_token_is_found_by_its_digest(store: AnyStore) -> None:
    asked = token()
    made = await store.tokens.create(asked)
    found = await store.tokens.find(asked.digest)
    assert found == made
    assert (made.name, made.role, made.prefix) == ("ci", Role.EDITOR, asked.prefix)
    assert (made.created_by, made.revoked_at, made.last_used_at) == ("alice", None, None)
    assert made.is_valid(datetime.now(UTC))
    assert await store.tokens.find(digest_of(new_token())) is None


async def test_projects_and_expiry_are_kept(store: AnyStore) -> None:
    asked = token(lasts=60)
    asked = NewToken(
        asked.name, Role.VIEWER, asked.digest, asked.prefix, "bob",
        projects=frozenset({Tag("project", "x"), Tag("project", "a:b")}),
        expires_at=asked.expires_at,
    )  # fmt: skip
    made = await store.tokens.create(asked)
    assert made.projects == asked.projects
    assert made.expires_at is not None
    assert asked.expires_at is not None
    assert abs(made.expires_at - asked.expires_at) < timedelta(milliseconds=2)
    assert not made.is_valid(asked.expires_at + timedelta(seconds=1))


async def test_a_valid_name_is_taken(store: AnyStore) -> None:
    """By one of those who ask at once; free again once its token is revoked or has expired."""
    outcomes = await asyncio.gather(
        *(store.tokens.create(token()) for _ in range(4)), return_exceptions=True
    )
    [made] = [one for one in outcomes if not isinstance(one, BaseException)]
    refused = [one for one in outcomes if isinstance(one, BaseException)]
    assert {type(one) for one in refused} == {TokenExists}
    assert {one.see for one in refused if isinstance(one, TokenExists)} == {made.token_id}
    await store.tokens.revoke(made.token_id, actor="bob")
    await store.tokens.create(token(lasts=-1))
    await store.tokens.create(token())
    with pytest.raises(TokenExists):
        await store.tokens.create(token())
    assert len(await store.tokens.all()) == 3


async def test_a_revocation_is_for_good(store: AnyStore) -> None:
    """The first one counts."""
    made = await store.tokens.create(token())
    first = await store.tokens.revoke(made.token_id, actor="bob")
    again = await store.tokens.revoke(made.token_id, actor="carol")
    assert first == again
    assert first.revoked_by == "bob"
    assert first.revoked_at is not None
    assert not first.is_valid(datetime.now(UTC))
    assert await store.tokens.find(made.digest) == first
    for unknown in (str(uuid4()), "x", "\0"):
        with pytest.raises(TokenNotFound):
            await store.tokens.revoke(unknown, actor="bob")


async def test_the_use_is_noted_once_a_minute(store: AnyStore) -> None:
    made = await store.tokens.create(token())
    await store.tokens.used(made.token_id)
    first = await store.tokens.find(made.digest)
    await asyncio.sleep(0.005)
    await store.tokens.used(made.token_id)
    assert first is not None
    assert first.last_used_at is not None
    assert await store.tokens.find(made.digest) == first


async def test_tokens_are_listed_newest_first(store: AnyStore) -> None:
    for name in ("a", "b", "c"):
        await store.tokens.create(token(name))
        await asyncio.sleep(0.002)
    assert [one.name for one in await store.tokens.all()] == ["c", "b", "a"]


async def test_a_request_is_recorded_before_and_after(store: AnyStore) -> None:
    entry_id = await store.audit.begin(request())
    [entry] = await store.audit.find(AuditQuery(), limit=10)
    assert (entry.entry_id, entry.record, entry.status) == (entry_id, request(), None)
    assert entry.ended_at is None
    await store.audit.end(entry_id, 200, made={"knit_id": "7"})
    await store.audit.end(entry_id, 500, made={"knit_id": "8"})
    [entry] = await store.audit.find(AuditQuery(), limit=10)
    assert entry.status == 200
    assert entry.record.targets == {"run_id": "1", "knit_id": "7"}
    assert entry.ended_at is not None


async def test_a_refused_request_is_one_record(store: AnyStore) -> None:
    await store.audit.begin(request(status=403))
    [entry] = await store.audit.find(AuditQuery(), limit=10)
    assert (entry.status, entry.ended_at) == (403, entry.at)


async def test_whatever_was_asked_for_can_be_recorded(store: AnyStore) -> None:
    """Paths and names come from outside."""
    await store.audit.begin(request("\ud800\0", route="/\0'\"%s", targets={"knit_id": "\udcff\0"}))
    [entry] = await store.audit.find(AuditQuery(), limit=10)
    assert "%s" in entry.record.route


async def test_the_log_is_filtered_and_paged(store: AnyStore) -> None:
    for actor in ("alice", "bob", "alice"):
        await store.audit.begin(request(actor))
        await asyncio.sleep(0.002)
    latest, middle, oldest = await store.audit.find(AuditQuery(), limit=10)
    assert latest.entry_id > middle.entry_id > oldest.entry_id
    for actor in ("bob", "token:bob"):
        assert await store.audit.find(AuditQuery(actor=actor), limit=10) == [middle]
    assert await store.audit.find(AuditQuery(since=middle.at), limit=10) == [latest, middle]
    assert await store.audit.find(AuditQuery(until=middle.at), limit=10) == [oldest]
    assert await store.audit.find(AuditQuery(), limit=1, after=latest.entry_id) == [middle]
