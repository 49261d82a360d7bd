"""A kernel that lets nobody watch folders, or only few: told at the start, or looked instead."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from knit_workflows.compute.local import LocalBackend
from knit_workflows.domain.errors import BackendRejected
from knit_workflows.settings import LocalSettings

BLIND = """
import asyncio, logging, os, sys
from pathlib import Path
from knit_workflows.compute.local import LocalBackend, pod_folder
from knit_workflows.settings import LocalSettings

async def main(state):
    logging.basicConfig(level=logging.WARNING)
    Path("/proc/sys/user/max_inotify_watches").write_text(sys.argv[2])
    backend = LocalBackend(LocalSettings(state=state, engine="none"))
    await backend.open()
    (state / "pods" / "pod").mkdir()
    pod_folder.reserve(state / "pods" / "pod")
    lock = pod_folder.try_lock(state / "pods" / "pod" / pod_folder.STATE)
    watch = backend.watch("pod")
    print((await anext(watch)).phase)
    os.close(lock)
    print((await anext(watch)).phase)
    await watch.aclose()
    await backend.aclose()

asyncio.run(main(Path(sys.argv[1])))
"""


REFUSED = """
import asyncio, sys
from pathlib import Path
from knit_workflows.compute.local import LocalBackend
from knit_workflows.domain.errors import BackendRejected
from knit_workflows.settings import LocalSettings

async def main(state):
    Path("/proc/sys/user/max_inotify_instances").write_text("0")
    try:
        await LocalBackend(LocalSettings(state=state, engine="none")).open()
    except BackendRejected as refused:
        print(refused.reason, refused.advice, sep="\\n")

asyncio.run(main(Path(sys.argv[1])))
"""


def in_user_namespace(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs Python as root of a user namespace of its own, whose limits it may set."""
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True)


async def test_where_there_is_no_pidfd_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    with pytest.raises(BackendRejected, match="needs Linux") as refused:
        await LocalBackend(LocalSettings(state=tmp_path, engine="none")).open()
    assert "Kubernetes" in refused.value.advice


@pytest.mark.patient
@pytest.mark.engine
def test_a_kernel_that_makes_no_watch_at_all_is_told(tmp_path: Path) -> None:
    done = in_user_namespace(REFUSED, tmp_path)
    [reason, advice] = done.stdout.splitlines()
    assert reason == "the kernel refuses to watch folders: Too many open files"
    assert "fs.inotify.max_user_instances" in advice
    assert "ulimit -n" in advice


@pytest.mark.patient
@pytest.mark.engine
@pytest.mark.parametrize(("watches", "folder"), [(0, "pods"), (1, "pods/pod")])
def test_what_cannot_be_watched_is_looked_at(tmp_path: Path, watches: int, folder: str) -> None:
    """Every second, and said once."""
    done = in_user_namespace(BLIND, tmp_path, str(watches))
    assert done.stdout.split() == ["pending", "absent"]
    assert done.stderr.count("cannot watch") == 1
    assert f"cannot watch {tmp_path / folder}: No space left on device" in done.stderr
