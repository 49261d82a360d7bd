"""Checks whether bubblewrap can start a sandbox here, and says how to install it."""

from __future__ import annotations

import shutil
import subprocess
from typing import Final

PACKAGE: Final = "bubblewrap"
_MANAGERS: Final = (
    ("apt-get", "sudo apt-get install"),
    ("dnf", "sudo dnf install"),
    ("pacman", "sudo pacman -S"),
    ("apk", "sudo apk add"),
    ("zypper", "sudo zypper install"),
)
_PROBE: Final = (
    *("--tmpfs", "/", "--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev"),
    *("--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64"),
    *("--unshare-net", "--die-with-parent", "/usr/bin/true"),
)


def sandbox_problem() -> str | None:
    """Says in one sentence why no sandbox can be started and what to do; None if one can.

    Looks for bubblewrap on PATH and starts it once, which takes some 10 ms.
    """
    bubblewrap = shutil.which("bwrap")
    if bubblewrap is None:
        return f"{PACKAGE} is not installed; {install_advice(PACKAGE)}"
    try:
        done = subprocess.run(
            [bubblewrap, *_PROBE], capture_output=True, text=True, errors="replace", timeout=30
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{PACKAGE} does not start: {error}"
    if done.returncode == 0:
        return None
    reason = done.stderr.strip() or f"exit code {done.returncode}"
    return (
        f"{PACKAGE} cannot start a sandbox ({reason}); unprivileged user namespaces may be "
        "switched off: allow them, or use container images with Docker or Podman"
    )


def install_advice(package: str) -> str:
    """Says how to install a package with this machine's package manager."""
    for manager, command in _MANAGERS:
        if shutil.which(manager):
            return f"install it: {command} {package}"
    return f"install the package {package}"
