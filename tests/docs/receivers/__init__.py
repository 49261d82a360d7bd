"""Builds the receivers of docs/how-to/hooks.md with the libraries of their languages, pinned here.

The libraries come from their registries, once per version, into the cache folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from knit_workflows.provision.cache import cache_root, cached_folder, content_key

HERE: Final = Path(__file__).parent
TOOLS: Final = HERE.parents[2] / "tools"
_PACKAGES: Final = {"node": "nodejs", "npm": "npm", "go": "golang-go"}


def in_python(source: str, folder: Path, port: int) -> list[str]:
    """Gives the command of a receiver; its libraries are among those of the tests."""
    (folder / "receiver.py").write_text(source)
    return [
        *(sys.executable, "-P", "-m", "uvicorn", "receiver:app", "--app-dir", str(folder)),
        *("--port", str(port), "--no-access-log"),
    ]


def in_javascript(source: str, folder: Path, port: int) -> list[str]:
    """Gives the command of a receiver; it finds its port in the environment."""
    libraries = npm_packages("js", HERE / "js")
    (folder / "node_modules").symlink_to(libraries / "node_modules")
    (folder / "receiver.mjs").write_text(source)
    return ["node", str(folder / "receiver.mjs")]


def npm_packages(name: str, pinned: Path) -> Path:
    """Gives a folder with the `node_modules` that a folder's lock file pins, and installs node."""
    _require("node", "npm")
    names = ("package.json", "package-lock.json")
    key = content_key(*((pinned / one).read_bytes() for one in names))

    def install(making: Path) -> None:
        for one in names:
            shutil.copy(pinned / one, making)
        _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], making)

    return cached_folder(cache_root() / "receivers" / f"{name}-{key}", install)


def in_go(source: str, folder: Path, port: int) -> list[str]:
    """Gives the command of a receiver; it finds its port in the environment."""
    _require("go")
    names = ("go.mod", "go.sum")
    key = content_key(source, *((HERE / "go" / name).read_bytes() for name in names))

    def build(making: Path) -> None:
        for name in names:
            shutil.copy(HERE / "go" / name, folder)
        (folder / "main.go").write_text(source)
        target = str(making / "receiver")
        _run(["go", "build", "-mod=readonly", "-buildvcs=false", "-o", target, "."], folder)

    return [str(cached_folder(cache_root() / "receivers" / f"go-{key}", build) / "receiver")]


RECEIVERS: Final[dict[str, Callable[[str, Path, int], list[str]]]] = {
    "python": in_python,
    "javascript": in_javascript,
    "go": in_go,
}


def _require(*programs: str) -> None:
    """Installs what is not there, on a Debian; else says what is missing."""
    missing = [_PACKAGES[program] for program in programs if shutil.which(program) is None]
    if missing:
        sys.path.append(str(TOOLS))
        try:
            from debian_packages import ensure_packages
        finally:
            sys.path.remove(str(TOOLS))
        ensure_packages(missing, "the receivers of docs/how-to/hooks.md")


def _run(command: list[str], folder: Path) -> None:
    environment = os.environ | {"CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": ""}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
