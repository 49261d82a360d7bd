"""`knit version` and `knit license`."""

from __future__ import annotations

import re
from importlib import metadata

import typer

from knit_cli.output import print_bytes, print_text
from knit_cli.version import commit
from knit_cli.version import version as knit_version

app = typer.Typer()

_REQUIREMENT_NAME = re.compile(r"[A-Za-z0-9._-]+")


@app.command()
def version() -> None:
    """Show the version."""
    # The contract has no line end here.
    print_bytes([f"v{knit_version()} (commit: {commit()})".encode()])


@app.command("license")
def show_license() -> None:
    """Show the licence of knit and those of the packages it uses."""
    used = sorted(_used("knit").values(), key=lambda found: found.name.lower())
    lines = ["knit: Apache-2.0", "", "It uses these packages under their own licences:"]
    lines += [f"{found.name} {found.version}: {_license_of(found)}" for found in used]
    print_text("\n".join(lines))


def _used(name: str) -> dict[str, metadata.Distribution]:
    """Finds the installed packages that one requires, transitively, by normalized name."""
    found: dict[str, metadata.Distribution] = {}
    pending = [name]
    while pending:
        try:
            distribution = metadata.distribution(pending.pop())
        except metadata.PackageNotFoundError:  # not required on this platform, or knit itself
            continue
        for requirement in distribution.requires or []:
            match = _REQUIREMENT_NAME.match(requirement)
            if match is None or "extra ==" in requirement:
                continue
            needed = re.sub(r"[-_.]+", "-", match[0]).lower()
            if needed not in found:
                pending.append(needed)
        if distribution.name != name:
            found[re.sub(r"[-_.]+", "-", distribution.name).lower()] = distribution
    return found


def _license_of(distribution: metadata.Distribution) -> str:
    expression = distribution.metadata.get_all("License-Expression")
    if expression:
        return str(expression[0])
    classifiers = distribution.metadata.get_all("Classifier") or []
    named = [text.rpartition("::")[2].strip() for text in classifiers if "License ::" in text]
    return ", ".join(named) or "see its files"
