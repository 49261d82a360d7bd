"""The settings folder: what an installation is made from, and where its secrets are kept.

The names of its files are those of Knitfab's installer. It belongs to its owner alone: folders have
mode 0700, files 0600.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from knit_cli.config.files import write_private
from knit_cli.errors import BadInput, CliError
from knit_workflows.domain.os_errors import advice_for, reason_of

DEFAULT_FOLDER: Final = "knit-install-settings"
DEFAULT_NAMESPACE: Final = "knit"
_NAMESPACE_FILE: Final = "namespace"
_LOCK: Final = ".lock"
_NEW: Final = ".new"
_PLAN: Final = "plan.json"
"""In the folder of new certificates: which files are replaced by them, and which go."""


@dataclass(frozen=True)
class SettingsFolder:
    """A settings folder, by its path; nothing is read or written until asked."""

    root: Path

    @property
    def certs(self) -> Path:
        """The folder of certificates and keys."""
        return self.root / "certs"

    @property
    def ca_certificate(self) -> Path:
        """The certificate of the authority; absent if clients trust the server's anyway."""
        return self.certs / "ca.crt"

    @property
    def ca_key(self) -> Path:
        """The key of the authority, which never leaves this folder."""
        return self.certs / "ca.key"

    @property
    def server_certificate(self) -> Path:
        """The certificate of API and registry; absent without TLS."""
        return self.certs / "server.crt"

    @property
    def server_key(self) -> Path:
        """The key of that certificate."""
        return self.certs / "server.key"

    @property
    def without_tls(self) -> Path:
        """Exists if API and registry are to speak plain HTTP, behind a balancer."""
        return self.certs / "no-tls"

    @property
    def kubeconfig(self) -> Path:
        """A copy of the kubeconfig, complete in itself."""
        return self.root / "kubeconfig"

    @property
    def pull_secret(self) -> Path:
        """A Secret for pulling knit's own images, as a manifest."""
        return self.root / "knit-image-registry-secret.yaml"

    @property
    def bootstrap_token(self) -> Path:
        """The first administrator's token."""
        return self.root / "bootstrap-token"

    @property
    def api_root(self) -> Path:
        """The address for users, if another one than that of a node."""
        return self.root / "api-root"

    @property
    def handouts(self) -> Path:
        """What users get."""
        return self.root / "handouts"

    def values(self, name: str) -> Path:
        """Gives the file with the values of a chart, or of `hooks` or `extra-api`."""
        return self.root / "values" / f"{name}.yaml"

    def exists(self) -> bool:
        """Says whether `prepare` was here."""
        return (self.root / _NAMESPACE_FILE).is_file()

    def create(self) -> None:
        """Makes the folder, or restricts the one that is there to its owner.

        Raises:
            BadInput: it cannot be made.
        """
        with _failures("make", self.root):
            for folder in (self.root, self.certs, self.values("x").parent):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                folder.chmod(0o700)

    def require(self) -> None:
        """Raises BadInput unless `prepare` was here."""
        if not self.exists():
            raise BadInput(
                f"there is no settings folder at {self.root}",
                advice="run `knit admin prepare`, or name yours with --settings",
            )

    @property
    def namespace(self) -> str:
        """The namespace that was chosen last."""
        return self.read_text(self.root / _NAMESPACE_FILE) or DEFAULT_NAMESPACE

    def save_namespace(self, namespace: str) -> None:
        """Remembers the namespace, which marks the folder as complete."""
        path = self.root / _NAMESPACE_FILE
        if self.read_text(path) != namespace:
            self.write(path, f"{namespace}\n")

    def write(self, path: Path, content: str | bytes) -> None:
        """Replaces a file of the folder atomically, readable by its owner only; raises BadInput."""
        text = content if isinstance(content, str) else content.decode("utf-8", "surrogateescape")
        with _failures("write", path):
            write_private(path, text)

    def read_bytes(self, path: Path) -> bytes | None:
        """Reads a file; None: it does not exist; raises BadInput if it cannot be read."""
        with _failures("read", path):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None

    def read_text(self, path: Path) -> str:
        """Reads a small text without blanks at its ends; empty: it does not exist."""
        content = self.read_bytes(path) or b""
        try:
            return content.decode().strip()
        except UnicodeDecodeError as cause:
            raise BadInput(f"{path} is not text in UTF-8", advice="correct the file") from cause

    def set_aside(self, *paths: Path) -> Path | None:
        """Moves files that are about to be replaced into a new folder beside them; gives it.

        So no key is ever lost. None: none of them exists.
        """
        there = [path for path in paths if path.exists()]
        if not there:
            return None
        target = self._new_aside()
        with _failures("move", target):
            for path in there:
                shutil.move(path, target / path.name)
        return target

    def _new_aside(self) -> Path:
        stamp = f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
        target = self.certs / f"replaced-{stamp}"
        count = 1
        while target.exists():  # a second time in that second
            count += 1
            target = self.certs / f"replaced-{stamp}-{count}"
        with _failures("make", target):
            target.mkdir(mode=0o700)
        return target

    def replace_certificates(self, wanted: Mapping[Path, bytes | None]) -> Path | None:
        """Replaces files of `certs/` (None: removes one), all of them even if it is killed.

        Returns the folder with copies of what was replaced, or None. The new files are complete
        beside the old ones before the first is replaced; whoever comes next finishes that.

        Raises:
            BadInput: something cannot be written; then the old ones are still there.
        """
        self.finish_replacement()
        aside = self._copy_aside(*wanted)
        making = self.certs / f"{_NEW}.making"
        with _failures("make", making):
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir(mode=0o700)
        for path, content in wanted.items():
            if content is not None:
                self.write(making / path.name, content)
        names = {path.name: content is not None for path, content in wanted.items()}
        self.write(making / _PLAN, json.dumps(names))
        with _failures("make", self.certs / _NEW):
            making.rename(self.certs / _NEW)
        self.finish_replacement()
        return aside

    def finish_replacement(self) -> None:
        """Puts the new certificates of a command that was killed into their places, if any wait.

        Raises:
            BadInput: they cannot be written.
        """
        fresh = self.certs / _NEW
        if (content := self.read_bytes(fresh / _PLAN)) is None:
            return
        for name, stays in json.loads(content).items():
            with _failures("write", self.certs / name):
                if not stays:
                    (self.certs / name).unlink(missing_ok=True)
                elif (fresh / name).exists():  # else it is in its place already
                    (fresh / name).replace(self.certs / name)
        with _failures("remove", fresh):
            (fresh / _PLAN).unlink()
            shutil.rmtree(fresh)

    def _copy_aside(self, *paths: Path) -> Path | None:
        there = [path for path in paths if path.exists()]
        if not there:
            return None
        target = self._new_aside()
        for path in there:
            self.write(target / path.name, self.read_bytes(path) or b"")
        return target

    def too_open(self) -> list[Path]:
        """Lists what others than the owner may read or write, the folder itself first."""
        if not self.root.is_dir():
            return []
        paths = [self.root, *sorted(self.root.rglob("*"))]
        # Handouts are for others.
        mine = [one for one in paths if self.handouts not in (one, *one.parents)]
        return [
            one for one in mine if not one.is_symlink() and stat.S_IMODE(one.stat().st_mode) & 0o077
        ]

    @contextmanager
    def sole_user(self) -> Iterator[int]:
        """Holds a lock on the folder; its file descriptor is passed to helm.

        So the lock lasts until a helm that outlives its killed `knit admin` has ended, too.

        Raises:
            CliError: another one holds it.
        """
        path = self.root / _LOCK
        with _failures("write", path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as cause:
                raise CliError(
                    "another `knit admin` is at work with this settings folder",
                    reason=f"it, or a helm that it has started, holds {path}",
                    advice="wait until it has ended, then repeat",
                ) from cause
            yield handle
        finally:
            os.close(handle)

    def at_work_on(self) -> str:
        """Gives the release that a helm of this folder was changing when it was killed, or none."""
        return self.read_text(self.root / ".release")

    def set_at_work_on(self, release: str | None) -> None:
        """Notes the release that helm is about to change; None: helm has ended by itself."""
        path = self.root / ".release"
        if release is not None:
            self.write(path, release)
            return
        with suppress(FileNotFoundError):
            path.unlink()


@contextmanager
def _failures(verb: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as cause:
        raise BadInput(
            f"cannot {verb} {path}", reason=reason_of(cause), advice=advice_for(cause)
        ) from cause
