"""Builds programs of a Go module into the cache, once per content of that module."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from knit_workflows.provision.cache import SetUpError, cache_root, cached_folder, content_key
from knit_workflows.provision.progress import Progress

# Increment it when the way of building changes: it is part of every cache key.
BUILD_VERSION = "1"


@dataclass(frozen=True)
class GoPrograms:
    """Main packages of one Go module folder (`go.mod`, `go.sum`, sources) built together."""

    name: str
    module: Path
    packages: tuple[str, ...]
    ldflags: str = "-s -w"
    takes: str = "some minutes, once"
    """How long a build takes, for people."""
    tags: tuple[str, ...] = ()
    """Build tags, with which some modules leave parts of themselves out."""

    def folder(self) -> Path:
        """Returns the folder of the programs, each named by the last part of its package path."""
        files = [self.module / "go.mod", self.module / "go.sum", *sorted(self.module.glob("*.go"))]
        content = [file.read_bytes() for file in files if file.exists()]
        key = content_key(BUILD_VERSION, *content, self.ldflags, *self.packages, *self.tags)
        return cache_root() / "go" / f"{self.name}-{key}"


def build_if_needed(programs: GoPrograms, *, quiet: bool = False) -> Path:
    """Returns the folder of the built programs, verified; builds them when missing or damaged.

    With `quiet` a build only announces itself, without progress.

    Raises:
        SetUpError: a build is needed, and `go` is missing or fails.
    """
    folder = programs.folder()
    return cached_folder(folder, lambda making: _build(programs, making, quiet))


def _build(programs: GoPrograms, target: Path, quiet: bool) -> None:
    go = shutil.which("go")
    if go is None:
        raise SetUpError(f"building {programs.name} needs Go, and there is no `go` on PATH")
    # Without cgo the build needs no C compiler and the result runs on any libc.
    environment = os.environ | {"CGO_ENABLED": "0", "GOWORK": "off"}
    command = [go, "build", "-v", "-mod=readonly", "-buildvcs=false", "-trimpath", "-p", "2"]
    command += ["-tags", ",".join(programs.tags)] if programs.tags else []
    command += ["-ldflags", programs.ldflags, "-o", f"{target}/", *programs.packages]
    # Low priority, so that the machine stays usable meanwhile.
    nice = shutil.which("nice")
    command = [nice, "-n", "10", *command] if nice else command
    with (
        Progress(f"building {programs.name} with Go", programs.takes, quiet=quiet) as progress,
        subprocess.Popen(
            command, cwd=programs.module, env=environment, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        last = _follow(process, progress)
    if process.returncode != 0:
        sys.stderr.writelines(last)
        raise SetUpError(f"`go build` of {programs.name} failed; its output above says why")


def _follow(process: subprocess.Popen[str], progress: Progress) -> deque[str]:
    """Counts the output lines of `go build -v` until it ends; returns the last ones."""
    last: deque[str] = deque(maxlen=20)
    fetched = compiled = 0
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("go: downloading "):
            fetched += 1
        else:
            compiled += 1
            last.append(line)
        progress.state = f"{fetched} modules fetched, {compiled} packages compiled"
    return last
