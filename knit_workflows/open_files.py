"""How many files and connections a process may have open at once."""

from __future__ import annotations

import resource


def allow_open_files(wanted: int) -> None:
    """Raises this process's limit to so many, or as near as it may go, if it is lower.

    Often 1,024 are allowed at first, and more only on request.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
