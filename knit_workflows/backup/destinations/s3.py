"""A prefix of an S3 bucket, through obstore; see docs/decisions/0032 for why that library.

Credentials, region and endpoint are those of the usual variables (`AWS_ACCESS_KEY_ID`,
`AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT_URL`, …), or of the machine's or pod's role.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Final, Self
from urllib.parse import urlsplit

from knit_workflows.backup.problems import BackupProblem

try:
    from obstore.exceptions import (
        AlreadyExistsError,
        BaseError,
        NotFoundError,
        PermissionDeniedError,
        PreconditionError,
        UnauthenticatedError,
    )
    from obstore.store import S3Store
except ImportError as cause:
    raise BackupProblem(
        "backups in S3 need the library obstore",
        reason="it is not installed",
        advice="install knit with it: pip install 'knit[s3]'",
    ) from cause

_LOCK: Final = "lock"
_LEASE: Final = 60.0
"""Seconds after which the lock of one that was killed is taken over."""
_RENEWAL: Final = 15.0
_TIMEOUT: Final = timedelta(minutes=2)
_PLAIN: Final = "http://"


class Bucket:
    """A destination in S3, or in what speaks its protocol."""

    def __init__(self, store: S3Store, shown: str) -> None:
        self.shown = shown
        self._store = store

    @classmethod
    def named(cls, name: str, variables: Mapping[str, str] = os.environ) -> Self:
        """Gives `s3://bucket/prefix`; raises BackupProblem if it is named wrongly."""
        url = urlsplit(name)
        if not url.netloc:
            raise BackupProblem(f"{name} names no bucket", advice="name s3://BUCKET/PREFIX")
        prefix = url.path.strip("/")
        endpoint = variables.get("AWS_ENDPOINT_URL_S3") or variables.get("AWS_ENDPOINT_URL") or ""
        options: Any = {"timeout": _TIMEOUT, "allow_http": endpoint.startswith(_PLAIN)}
        config: Any = {"endpoint": endpoint} if endpoint else {}
        try:
            store = S3Store(
                url.netloc,
                prefix=prefix or None,
                config=config,
                client_options=options,
                retry_config={"max_retries": 6, "retry_timeout": timedelta(minutes=2)},
            )
        except BaseError as cause:
            raise _failed("open", name, cause) from cause
        return cls(store, f"s3://{url.netloc}/{prefix}".rstrip("/"))

    def read(self, name: str) -> bytes | None:
        """See `Destination`."""
        with self._failures("read", name):
            try:
                return self._store.get(name).bytes().to_bytes()
            except (NotFoundError, FileNotFoundError):
                return None

    def write(self, name: str, content: bytes) -> None:
        """See `Destination`: one PUT, which is atomic."""
        with self._failures("write", name):
            self._store.put(name, content, use_multipart=False)

    def remove(self, name: str) -> None:
        """See `Destination`."""
        with self._failures("remove", name), suppress(NotFoundError, FileNotFoundError):
            self._store.delete(name)

    def names(self, prefix: str) -> Iterator[str]:
        """See `Destination`; a thousand per request."""
        with self._failures("read", prefix):
            for page in self._store.list(prefix.rstrip("/"), chunk_size=1000):
                yield from (one["path"] for one in page)

    def settle(self) -> None:
        """See `Destination`: what S3 has acknowledged is durable."""

    @contextmanager
    def locked(self) -> Iterator[Lease]:
        """See `Destination`; waits for the lease of a killed one to end."""
        with self._failures("lock", _LOCK):
            lease = Lease.taken(self._store, self.shown)
        try:
            yield lease
        finally:
            lease.release()

    @contextmanager
    def held(self) -> Iterator[None]:
        """See `Destination`; one at a time reads, unless its key can write nothing."""
        lease: Lease | None = None
        with (
            self._failures("lock", _LOCK),
            suppress(PermissionDeniedError, UnauthenticatedError, PermissionError),
        ):
            lease = Lease.taken(self._store, self.shown)
        try:
            yield
        finally:
            if lease is not None:
                lease.release()

    @contextmanager
    def _failures(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError) as cause:
            raise _failed(verb, f"{self.shown}/{name}", cause) from cause


class Lease:
    """The lock: an object that its holder renews; conditional writes let only one have it."""

    def __init__(self, store: S3Store, shown: str, tag: str | None) -> None:
        self._store = store
        self._shown = shown
        self._tag = tag
        self._holder = uuid.uuid4().hex
        self._valid_until = 0.0
        self._ending = threading.Event()
        self._renewing = threading.Thread(target=self._renew, daemon=True)

    @classmethod
    def taken(cls, store: S3Store, shown: str) -> Self:
        """Gives the lease, once it is ours; raises BackupProblem if another one holds it."""
        mine = cls(store, shown, None)
        seen: str | None = None
        since = time.monotonic()
        while True:
            found = mine._holder_now()
            if found is None or (found == seen and time.monotonic() - since > _LEASE):
                if mine._put(found):
                    mine._renewing.start()
                    return mine
                continue
            if seen is not None and found != seen:  # it was renewed while we watched
                raise BackupProblem(
                    f"another backup is at work on {shown}, or a restore reads it",
                    advice="wait until it has ended, then repeat the command",
                )
            seen = found
            time.sleep(1.0)

    def require(self) -> None:
        """Raises BackupProblem once it could not be renewed in time."""
        if time.monotonic() > self._valid_until:
            raise BackupProblem(
                f"the lock on {self._shown} could not be kept",
                reason="it was not reached for a minute, or another backup took it over",
                advice="repeat the command: it goes on from here",
            )

    def release(self) -> None:
        """Gives it back, if it is still ours."""
        self._ending.set()
        self._renewing.join()
        if time.monotonic() < self._valid_until:
            with suppress(BaseError, OSError):
                self._store.delete(_LOCK)

    def _holder_now(self) -> str | None:
        """Gives the version of the lock; None: nobody has it."""
        try:
            return self._store.head(_LOCK)["e_tag"]
        except (NotFoundError, FileNotFoundError):
            return None

    def _put(self, instead_of: str | None) -> bool:
        """Writes the lock in place of that version; says whether nobody came before."""
        text = json.dumps({"holder": self._holder, "at": time.time()}).encode()
        mode: Any = "create" if instead_of is None else {"e_tag": instead_of}
        began = time.monotonic()
        try:
            put = self._store.put(_LOCK, text, mode=mode, use_multipart=False)
        except (AlreadyExistsError, PreconditionError, NotFoundError, FileExistsError):
            return False
        self._tag, self._valid_until = put["e_tag"], began + _LEASE
        return True

    def _renew(self) -> None:
        while not self._ending.wait(_RENEWAL):
            with suppress(BaseError, OSError):
                if not self._put(self._tag) and not self._put_after_all():
                    self._valid_until = 0.0
                    return

    def _put_after_all(self) -> bool:
        """Writes the lock if what is there is ours, and says whether it is.

        Where an answer to us was lost, the version is one of which we do not know.
        """
        try:
            found = self._store.get(_LOCK)
            holder = json.loads(found.bytes().to_bytes())["holder"]
        except (NotFoundError, FileNotFoundError, ValueError, KeyError, TypeError):
            return False
        if holder != self._holder:
            return False
        self._tag = found.meta["e_tag"]
        self._put(self._tag)  # if this answer is lost, too, the next renewal comes here again
        return True


def _failed(verb: str, what: str, cause: Exception) -> BackupProblem:
    text = " ".join(str(cause).split())
    return BackupProblem(
        f"cannot {verb} {what}",
        reason=text[:600],
        advice="check the bucket, AWS_ENDPOINT_URL, AWS_REGION, and the key's rights",
    )
