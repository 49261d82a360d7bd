"""Makes sure that containers can run here: a container engine that answers, else bubblewrap.

python tools/sandbox.py              one of them is there afterwards; its name is printed
python tools/sandbox.py --for-tests  both podman and bubblewrap are; prints the environment as JSON
When that cannot be: a sentence on stderr and exit code 3.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from debian_packages import ensure_packages

from knit_workflows.provision.cache import SetUpError, cache_root
from knit_workflows.provision.sandbox import PACKAGE, sandbox_problem

EXIT_NONE = 3
ENGINES = ("docker", "podman", "nerdctl")
# crun refuses hybrid cgroups, and where limits may not be raised the defaults are refused too.
_TEST_ENGINE_SETTINGS = """[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


def answering_engine() -> str | None:
    """Returns the first container engine that answers; a command without its daemon does not."""
    return next((name for name in ENGINES if _works(name, "info")), None)


def ensure_sandbox() -> str:
    """Returns the name of what can run containers here, after installing bubblewrap if need be.

    Bubblewrap comes first: `host/…` images, which the demo uses, need it.

    Raises:
        SetUpError: there is nothing, and nothing can be installed.
    """
    try:
        ensure_bubblewrap()
    except SetUpError as error:
        engine = answering_engine()
        if engine is None:
            raise
        print(f"sandbox: {error}", file=sys.stderr)
        print(f"sandbox: {engine} runs images; `host/…` images cannot run here", file=sys.stderr)
        return engine
    return "bwrap"


def ensure_bubblewrap() -> None:
    """Makes bubblewrap present and sees it work."""
    if sandbox_problem() is None:
        return
    ensure_packages([PACKAGE], "running containers without an engine")
    if problem := sandbox_problem():
        raise SetUpError(problem)


def ensure_test_engine() -> dict[str, str]:
    """Returns the environment in which an engine runs containers; installs one if need be."""
    ensure_bubblewrap()
    # Those two have a daemon, so an answer means more than an installed command.
    for name in ("docker", "nerdctl"):
        if _works(name, "info"):
            return {"KNIT_TEST_ENGINE": name}
    ensure_packages(["podman", "runc", "busybox-static"], "the tests' container engine")
    for extra in ({}, _podman_settings()):
        if podman_runs(extra):
            return {"KNIT_TEST_ENGINE": "podman"} | extra
    raise SetUpError("podman is installed but runs no container: try `podman run` to see why.")


def podman_runs(environment: dict[str, str]) -> bool:
    """Runs one container from a folder with busybox; `podman info` may succeed and this fail."""
    busybox = shutil.which("busybox")
    if busybox is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "bin", "busybox")
        program.parent.mkdir()
        shutil.copy(busybox, program)
        command = ("podman", "run", "--rm", "--network=none", "--memory=64m", "--rootfs", folder)
        return _works(*command, "/bin/busybox", "true", environment=environment)


def _podman_settings() -> dict[str, str]:
    path = cache_root() / "podman" / "containers.conf"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_TEST_ENGINE_SETTINGS)
    return {"CONTAINERS_CONF": str(path)}


def _works(*command: str, environment: dict[str, str] | None = None) -> bool:
    if shutil.which(command[0]) is None:
        return False
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=30, env=os.environ | (environment or {})
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def main() -> int:
    """Prints what there is, or says what to do."""
    parser = argparse.ArgumentParser(description="Make sure that containers can run here.")
    parser.add_argument("--for-tests", action="store_true", help="podman and bubblewrap, as JSON")
    options = parser.parse_args()
    try:
        print(json.dumps(ensure_test_engine()) if options.for_tests else ensure_sandbox())
    except SetUpError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return EXIT_NONE
    return 0


if __name__ == "__main__":
    sys.exit(main())
