"""The embedded PostgreSQL: whose folders it touches, and what it refuses in words."""

from __future__ import annotations

import errno
import os
import pwd
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from knit_workflows import embedded
from knit_workflows.embedded import EmbeddedPostgres, EmbeddedRefused
from knit_workflows.provision import passage

pytestmark = pytest.mark.patient

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only for root are folders opened at all")


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Not among pytest's own, which each start of another pytest closes to others again."""
    with tempfile.TemporaryDirectory(prefix="knit-pg-", ignore_cleanup_errors=True) as folder:
        yield Path(folder).resolve()


def mode(folder: Path) -> int:
    """The permissions of a folder."""
    return stat.S_IMODE(folder.stat().st_mode)


def private(folder: Path) -> Path:
    """A folder that is closed to others, with nested ones."""
    folder.mkdir(mode=0o700)
    folder.chmod(0o700)
    return folder


def database_user(folder: Path) -> str | None:
    """Who runs a server here."""
    server = EmbeddedPostgres(folder / "of its user")
    server.prepare()
    return server.user


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A server in a temporary folder, not started."""
    made = EmbeddedPostgres(tmp_path / "pg")
    yield made
    made.stop()


@pytest.fixture
def nothing_is_temporary(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own folders count like those of any user."""
    monkeypatch.setattr(passage, "_is_temporary", lambda _: False)


@pytest.fixture
def open_path(tmp_path: Path) -> Path:
    """A folder through which everybody may pass."""
    for folder in (tmp_path, *tmp_path.parents):
        if not mode(folder) & stat.S_IXOTH:
            folder.chmod(mode(folder) | stat.S_IXOTH)
    return tmp_path


def may(what: str, folder: Path, *, user: int, group: int) -> bool:
    """Asks `test` as somebody else."""
    command = ["/usr/bin/test", what, str(folder)]
    done = subprocess.run(command, cwd="/", user=user, group=group, extra_groups=[])
    return done.returncode == 0


@as_root
def test_folders_above_are_not_opened_for_reading(tmp_path: Path) -> None:
    """Among temporary files others may pass, no more; at the first start and at each other one."""
    above = private(tmp_path / "above")
    server = EmbeddedPostgres(above / "pg")
    server.prepare()
    assert mode(above) == 0o701
    above.chmod(0o700)
    server.before_start()
    assert mode(above) == 0o701
    assert mode(above / "pg") == 0o700


@as_root
@pytest.mark.usefixtures("nothing_is_temporary")
def test_its_user_alone_is_let_through_closed_folders(open_path: Path) -> None:
    """Whether there is a database already or not; twice is once."""
    above = private(open_path / "my project")
    below = private(above / "state")
    server = EmbeddedPostgres(below / "pg")
    assert server.open_way() == [above, below]
    assert server.open_way() == []
    server.prepare()
    server.before_start()
    account = pwd.getpwnam(str(server.user))
    for folder in (above, below):
        assert mode(folder) == 0o710  # with an access list these bits are its mask
        assert folder.stat().st_gid == 0
        assert not may("-x", folder, user=65534, group=0)
        assert may("-x", folder, user=account.pw_uid, group=account.pw_gid)
        assert not may("-r", folder, user=account.pw_uid, group=account.pw_gid)


@as_root
@pytest.mark.usefixtures("nothing_is_temporary")
def test_what_an_access_list_has_already_stays(open_path: Path) -> None:
    above = private(open_path / "above")
    passage._admit(above, 65534)
    EmbeddedPostgres(above / "pg").prepare()
    assert may("-x", above, user=65534, group=65534)
    assert not may("-x", above, user=65533, group=65533)


@as_root
@pytest.mark.usefixtures("nothing_is_temporary")
def test_closed_folders_without_access_lists_are_named_and_left_alone(
    open_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their owner decides."""

    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr("os.setxattr", unsupported)
    above = private(open_path / "my project")
    below = private(above / "state")
    server = EmbeddedPostgres(below / "pg")
    with pytest.raises(EmbeddedRefused) as refused:
        server.prepare()
    assert f"to whom {above}, {below} is closed" in refused.value.reason
    assert "(--state)" in refused.value.advice
    assert f"chmod o+x '{above}' '{below}'" in refused.value.advice
    assert [mode(above), mode(below)] == [0o700, 0o700]
    assert not list(below.iterdir())

    for folder in (above, below):
        folder.chmod(0o711)
    server.prepare()
    server.before_start()
    above.chmod(0o700)
    with pytest.raises(EmbeddedRefused, match="is closed"):
        server.before_start()
    assert mode(above) == 0o700


@as_root
@pytest.mark.usefixtures("nothing_is_temporary")
def test_a_folder_that_its_user_may_pass_otherwise_is_none_that_is_closed(open_path: Path) -> None:
    """By its group here."""
    above = private(open_path / "above")
    os.chown(above, 0, pwd.getpwnam(str(database_user(open_path))).pw_gid)
    above.chmod(0o710)
    EmbeddedPostgres(above / "pg").prepare()
    assert mode(above) == 0o710


@pytest.mark.parametrize("name", ["pg", "a,b"])
def test_it_starts_whatever_libpq_is_told(name: str, tmp_path: Path) -> None:
    """`PG*` mean another server; and libpq ends a host at a comma."""
    server = EmbeddedPostgres(tmp_path / name)
    with pytest.MonkeyPatch.context() as patched:
        for variable in ("PGPORT", "PGHOSTADDR", "PGCHANNELBINDING", "PGSERVICE"):
            patched.setenv(variable, "6543")
        server.start()
    try:
        with psycopg.connect(server.url()) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        server.stop()


def test_a_comma_that_nothing_helps_against_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything starts."""
    runtime = tmp_path / "run,time"
    runtime.mkdir()
    with pytest.raises(EmbeddedRefused, match="there is a comma in") as refused:
        embedded._plain_folder(tmp_path, runtime)
    assert "TMPDIR" in refused.value.advice


@pytest.mark.parametrize("version", ["17", "19", ""])
def test_a_database_of_another_version_is_named(tmp_path: Path, version: str) -> None:
    """With both versions, and what to do."""
    (tmp_path / "pg").mkdir()
    (tmp_path / "pg" / "PG_VERSION").write_text(f"{version}\n")
    with pytest.raises(
        EmbeddedRefused, match=f"PostgreSQL {version or '[?]'}, .* has 16 and 18"
    ) as refused:
        EmbeddedPostgres(tmp_path / "pg").prepare()
    assert "knit admin backup" in refused.value.advice


def test_a_database_keeps_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of 16 runs with the programs of 16, whatever new ones get."""
    monkeypatch.setattr(embedded, "POSTGRES_VERSION", 16)
    EmbeddedPostgres(tmp_path / "pg").prepare()
    monkeypatch.undo()
    server = EmbeddedPostgres(tmp_path / "pg")
    server.start()
    try:
        with psycopg.connect(server.url()) as connection:
            assert connection.info.server_version // 10_000 == 16
    finally:
        server.stop()


def test_an_initialization_that_fails_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the program's words."""
    monkeypatch.setattr(embedded, "_INITDB", ("--no-such-option",))
    with pytest.raises(subprocess.SubprocessError, match="no-such-option"):
        EmbeddedPostgres(tmp_path / "pg").prepare()


def test_a_process_number_of_another_server_keeps_none_from_starting(
    tmp_path: Path, server: EmbeddedPostgres
) -> None:
    """A killed server's number now belongs to another postgres of the same user."""
    other = EmbeddedPostgres(tmp_path / "other")
    other.start()
    try:
        server.prepare()
        lines = (tmp_path / "other" / "postmaster.pid").read_text().splitlines(keepends=True)
        lines[1] = f"{tmp_path / 'pg'}\n"
        (tmp_path / "pg" / "postmaster.pid").write_text("".join(lines[:-1]))
        server.start()
        assert psutil.pid_exists(other.pid())
    finally:
        other.stop()
