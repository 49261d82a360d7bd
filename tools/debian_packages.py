"""Installs Debian packages where that can be done; else says which are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence

from knit_workflows.provision.cache import SetUpError

LOCK_PATIENCE = 900.0
"""Seconds to wait for another installation: the first updates of a cloud machine take minutes."""
_LOOK_EVERY = 3.0
_REMIND_EVERY = 60.0
_LOCKED = "Could not get lock "


def missing_packages(packages: Sequence[str]) -> list[str]:
    """Returns those of `packages` that are not installed, in the order given."""
    query = shutil.which("dpkg-query")
    if query is None:
        return list(packages)
    command = [query, "--show", "--showformat", "${Package} ${db:Status-Status}\\n", *packages]
    done = subprocess.run(command, capture_output=True, text=True)
    present = {line.split()[0] for line in done.stdout.splitlines() if line.endswith(" installed")}
    return [name for name in packages if name not in present]


def ensure_packages(packages: Sequence[str], purpose: str) -> None:
    """Makes all `packages` present; nothing happens when they are.

    Raises:
        SetUpError: they are missing and cannot be installed from here.
    """
    missing = missing_packages(packages)
    if not missing:
        return
    wanted = " ".join(missing)
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise SetUpError(
            f"{purpose} needs these Debian packages (or their like): {wanted}. "
            f"Install them, for example: sudo apt-get install --no-install-recommends {wanted}"
        )
    print(f"installing for {purpose}: {wanted}", file=sys.stderr)
    # The lists may be absent or old, so a first failure is answered with an update.
    if not _install(missing):
        apt("update", "-q")
        if not _install(missing):
            raise SetUpError(f"`apt-get install {wanted}` failed; its output above says why.")


def _install(packages: Sequence[str]) -> bool:
    return apt("install", "-q", "-y", "--no-install-recommends", *packages)


def apt(*arguments: str, patience: float = LOCK_PATIENCE, look_every: float = _LOOK_EVERY) -> bool:
    """Runs `apt-get`; returns whether it succeeded. What it says goes to stderr.

    While another installation holds a lock it is tried again, for `patience` seconds at most.

    Raises:
        SetUpError: the lock was held all the time.
    """
    begun, told = time.monotonic(), -_REMIND_EVERY
    while True:
        succeeded, holder = _apt_once(arguments)
        if holder is None:
            return succeeded
        waited = time.monotonic() - begun
        if waited >= patience:
            raise SetUpError(
                f"apt is still busy after {waited:.0f} s: {holder} "
                "Wait until that installation has ended, then try again."
            )
        if waited - told >= _REMIND_EVERY:
            told = waited
            print(f"apt is busy: {holder} Waiting up to {patience / 60:g} min ...", file=sys.stderr)
        time.sleep(look_every)


def _apt_once(arguments: Sequence[str]) -> tuple[bool, str | None]:
    """Returns whether `apt-get` succeeded, and what it says about a lock that it did not get."""
    # RUNLEVEL=1 keeps a package's service (etcd, registry) from being started under its defaults.
    # LC_ALL=C: what it says about locks is read.
    environment = os.environ | {
        "DEBIAN_FRONTEND": "noninteractive",
        "RUNLEVEL": "1",
        "LC_ALL": "C",
    }
    # Not apt's own DPkg::Lock::Timeout: it waits for dpkg's lock, not for those of the lists and of
    # the downloaded archives, which an update holds for minutes as well.
    done = subprocess.run(
        ["apt-get", *arguments],
        env=environment,
        stdout=sys.stderr,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    locked = [line for line in done.stderr.splitlines() if _LOCKED in line]
    if done.returncode != 0 and locked:
        return False, locked[0].partition(_LOCKED)[2].strip()
    sys.stderr.write(done.stderr)
    return done.returncode == 0, None
