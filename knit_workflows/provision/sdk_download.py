"""Downloads the `temporal` program with Temporal's Python SDK.

The SDK downloads it only when it starts a dev server, and without a timeout. So this is done in a
process of its own (`python -m knit_workflows.provision.sdk_download FOLDER`), which is killed when
nothing arrives for a while.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from importlib import metadata
from pathlib import Path
from typing import IO, Final

from knit_workflows.provision.cache import SetUpError, cache_root, cached_folder
from knit_workflows.provision.progress import Progress

PROGRAM: Final = "temporal"
STALL_TIMEOUT: Final = 15.0
"""Seconds without a byte after which a download is aborted."""
_POLL_INTERVAL: Final = 0.1


def download_folder() -> Path:
    """Returns the folder of the program, `temporal`, that belongs to the installed SDK."""
    return cache_root() / "temporal-cli" / f"sdk-{metadata.version('temporalio')}"


def download_if_needed(*, quiet: bool = False, stall_timeout: float = STALL_TIMEOUT) -> Path:
    """Returns the downloaded program, verified; downloads it when it is missing or damaged.

    Without a network it fails at once; where packets get lost, after `stall_timeout` seconds
    without a byte. With `quiet` it shows no progress.

    Raises:
        SetUpError: it cannot be downloaded; the message says why.
    """
    return (
        cached_folder(download_folder(), lambda to: _download(to, quiet, stall_timeout)) / PROGRAM
    )


def _download(folder: Path, quiet: bool, stall_timeout: float) -> None:
    # -P: modules are never imported from the working folder.
    command = [sys.executable, "-P", "-m", __name__, str(folder)]
    title = "downloading Temporal's command line"
    with (
        tempfile.TemporaryFile() as stderr,
        Progress(title, "60 MB, once", quiet=quiet) as progress,
    ):
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # closed when we end, however suddenly: see `_end_with_parent`
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,  # so that the server that it starts can be killed with it
        )
        try:
            in_time = _follow(process, folder, progress, stall_timeout)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            assert process.stdin is not None
            process.stdin.close()
        reason = _last_line(stderr) if in_time else f"nothing arrived for {stall_timeout:g} s"
    complete = [path for path in folder.iterdir() if path.suffix != ".downloading"]
    if not complete:
        raise SetUpError(f"the download by Temporal's SDK failed: {reason}")
    complete[0].rename(folder / PROGRAM)


def _follow(
    process: subprocess.Popen[bytes], folder: Path, progress: Progress, stall_timeout: float
) -> bool:
    """Waits for the end; False if nothing has arrived for too long."""
    size, grown = -1, time.monotonic()
    while process.poll() is None:
        now = sum(path.stat().st_size for path in folder.iterdir())
        if now != size:
            size, grown = now, time.monotonic()
            progress.state = f"{size / 1e6:.0f} MB unpacked"
        elif time.monotonic() - grown > stall_timeout:
            return False
        time.sleep(_POLL_INTERVAL)
    return True


def _last_line(stderr: IO[bytes]) -> str:
    stderr.seek(0)
    lines = stderr.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it says nothing"


async def _start_once(folder: str) -> None:
    """Starts a server, for which the SDK downloads the program, and stops it again."""
    from temporalio.testing import WorkflowEnvironment  # heavy, and for this process only

    environment = await WorkflowEnvironment.start_local(download_dest_dir=folder)
    await environment.shutdown()


def _end_with_parent() -> None:
    """Has this session killed once stdin ends, which is when the parent has ended.

    A parent that is interrupted while it starts us knows of no process to kill.
    """

    def wait() -> None:
        sys.stdin.buffer.read()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def main() -> int:
    """Downloads into the folder given; what went wrong is the last line on stderr."""
    _end_with_parent()
    try:
        asyncio.run(_start_once(sys.argv[1]))
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # the SDK's threads can crash the interpreter's own end
