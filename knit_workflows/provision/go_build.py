"""Builds programs from a Go module of ours into the cache, once per content of that module."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cache_folder import SetUpError, cache_root, cached_folder, content_key

# Raise it when the way of building changes: it is part of every cache key.
BUILD_VERSION = "1"


@dataclass(frozen=True)
class GoPrograms:
    """Main packages of one Go module folder (`go.mod`, `go.sum`) that are built together."""

    name: str
    module: Path
    packages: tuple[str, ...]
    ldflags: str = "-s -w"

    def folder(self) -> Path:
        """Returns where the built programs lie, each under the last part of its package path."""
        sums = [(self.module / name).read_bytes() for name in ("go.mod", "go.sum")]
        key = content_key(BUILD_VERSION, *sums, self.ldflags, *self.packages)
        return cache_root() / "go" / f"{self.name}-{key}"


def build_if_needed(programs: GoPrograms) -> Path:
    """Returns the folder of the built programs, verified; builds them when missing or damaged.

    Raises:
        SetUpError: they must be built and `go` is missing or fails.
    """
    folder = programs.folder()
    return cached_folder(folder, lambda making: _build(programs, making))


def _build(programs: GoPrograms, target: Path) -> None:
    go = shutil.which("go")
    if go is None:
        raise SetUpError(f"Building {programs.name} needs Go: install it so that `go` is on PATH.")
    print(f"building {programs.name} with Go (some minutes, once) ...", file=sys.stderr)
    # Without cgo the build needs no C compiler and the result runs on any libc.
    environment = os.environ | {"CGO_ENABLED": "0", "GOWORK": "off"}
    command = [go, "build", "-mod=readonly", "-buildvcs=false", "-trimpath", "-p", "2"]
    command += ["-ldflags", programs.ldflags, "-o", f"{target}/", *programs.packages]
    # Low priority: the machine stays usable for whoever waits for the build.
    nice = shutil.which("nice")
    command = [nice, "-n", "10", *command] if nice else command
    done = subprocess.run(command, cwd=programs.module, env=environment, stdout=sys.stderr)
    if done.returncode != 0:
        raise SetUpError(f"`go build` of {programs.name} failed; its output above says why.")
