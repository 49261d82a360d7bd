"""The version of knit."""

from __future__ import annotations

_DISTRIBUTION = "knit"


def version() -> str:
    """Gives the installed version, such as `0.1.0`; `0+source` when knit is run uninstalled."""
    from importlib import (
        metadata,
    )  # imported late, here and below, because `knit --help` does not need it

    try:
        return metadata.version(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "0+source"


def commit() -> str:
    """Gives the commit knit was installed from; `unknown` if installed from a package index."""
    import json
    from importlib import metadata

    try:
        origin = metadata.distribution(_DISTRIBUTION).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        origin = None
    # PEP 610: pip records where a package came from when that was a repository.
    found = json.loads(origin).get("vcs_info", {}).get("commit_id") if origin else None
    return str(found or "unknown")
