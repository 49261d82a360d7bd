"""Installs Debian packages where that can be done; else says which are missing."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

from knit_workflows.provision.cache import SetUpError


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
        _apt("update", "-q")
        if not _install(missing):
            raise SetUpError(f"`apt-get install {wanted}` failed; its output above says why.")


def _install(packages: Sequence[str]) -> bool:
    return _apt("install", "-q", "-y", "--no-install-recommends", *packages)


def _apt(*arguments: str) -> bool:
    # RUNLEVEL=1 keeps a package's service (etcd, registry) from being started under its defaults.
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    done = subprocess.run(["apt-get", *arguments], env=environment, stdout=sys.stderr)
    return done.returncode == 0
