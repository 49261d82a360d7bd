"""The version of knit."""

from __future__ import annotations

_DISTRIBUTION = "knit"


def version() -> str:
    """Gives knit's version, such as `0.1.0`, whether it is installed or run from a folder."""
    # Imported late, here and below, because `knit --help` does not need it.
    from knit_workflows.names import VERSION

    return VERSION


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
