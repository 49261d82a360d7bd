"""What the system refuses is told with its reason and with what helps against that very thing."""

from __future__ import annotations

import errno
import os

import pytest

from knit_workflows.domain.os_errors import advice_for, reason_of

# What a hint must speak of, and what it must not send people to.
FITTING = [
    (errno.EACCES, "right", "room"),
    (errno.EPERM, "right", "room"),
    (errno.EROFS, "read-only", "room"),
    (errno.ENOSPC, "room", "right"),
    (errno.EDQUOT, "quota", "right"),
    (errno.EFBIG, "too large", "right"),
    (errno.ENOENT, "path", "room"),
    (errno.ENOTDIR, "folder is needed", "room"),
    (errno.EISDIR, "file is needed", "room"),
    (errno.EEXIST, "remove it", "room"),
    (errno.ENOTEMPTY, "empty it", "room"),
    (errno.ELOOP, "mend the link", "right"),
    (errno.EMLINK, "links", "right"),
    (errno.ENAMETOOLONG, "shorten", "right"),
    (errno.EILSEQ, "name", "right"),
    (errno.EINVAL, "name", "right"),
    (errno.EOPNOTSUPP, "cannot do this", "right"),
    (errno.EXDEV, "one file system", "right"),
    (errno.ETXTBSY, "end it", "right"),
    (errno.EBUSY, "end that", "right"),
    (errno.EAGAIN, "moment", "right"),
    (errno.EMFILE, "ulimit -n", "room"),
    (errno.ENFILE, "the machine", "room"),
    (errno.ENOMEM, "memory", "right"),
    (errno.EIO, "disk", "right"),
    (errno.ENODEV, "mounted", "right"),
    (errno.ENXIO, "mounted", "right"),
    (errno.ESTALE, "mount it anew", "right"),
    (errno.ENOTCONN, "mount it anew", "right"),
    (errno.ETIMEDOUT, "server", "right"),
    (errno.EHOSTDOWN, "server", "right"),
    (errno.ENOLCK, "locks", "right"),
    (errno.ENOEXEC, "program", "room"),
    (errno.E2BIG, "shorter", "right"),
]


@pytest.mark.parametrize(("code", "helps", "misleads"), FITTING)
def test_advice_fits_the_refusal(code: int, helps: str, misleads: str) -> None:
    error = OSError(code, os.strerror(code), "/data/x")
    assert helps in advice_for(error)
    assert misleads not in advice_for(error).split()
    assert reason_of(error).endswith(": /data/x")
    assert not reason_of(error).startswith("Invalid argument")


def test_a_reason_is_never_empty() -> None:
    assert reason_of(OSError()) == "OSError"
    assert reason_of(OSError("words of a library")) == "words of a library"
    assert (
        reason_of(OSError(errno.ENOENT, "No such file", b"/caf\xe9")) == "No such file: /caf\udce9"
    )
    two = OSError(errno.EXDEV, "Invalid cross-device link", "/a", None, "/b")
    assert reason_of(two) == "it is on another file system: /a → /b"


def test_what_is_in_no_table_is_the_callers_to_know() -> None:
    assert advice_for(OSError(errno.EDOM, "x")) == "check the path and your rights to it"
    assert advice_for(OSError(errno.EDOM, "x"), "push a copy") == "push a copy"
