"""Downloads the `temporal` program by the means of Temporal's Python SDK.

The SDK downloads it only as a part of starting a dev server, without a time limit. So that is done
in a process of its own (`python -m knit_workflows.provision.sdk_download FOLDER`), which is given
up when nothing arrives for a while.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import IO, Final

from knit_workflows.provision.cache import SetUpError, cache_root, cached_folder
from knit_workflows.provision.progress import Progress

PROGRAM: Final = "temporal"
SILENCE: Final = 15.0
"""Seconds without a byte after which a download counts as impossible."""
_LOOK_EVERY: Final = 0.1


def download_folder() -> Path:
    """Returns where the program lies that belongs to the installed SDK, as `temporal`."""
    return cache_root() / "temporal-cli" / f"sdk-{metadata.version('temporalio')}"


def download_if_needed(*, quiet: bool = False, silence: float = SILENCE) -> Path:
    """Returns the downloaded program, verified; downloads it when it is missing or damaged.

    Without a network that fails at once; where packets get lost, after `silence` seconds in which
    nothing came. With `quiet` it shows no progress.

    Raises:
        SetUpError: it cannot be downloaded; the message says why.
    """
    return cached_folder(download_folder(), lambda to: _download(to, quiet, silence)) / PROGRAM


def _download(folder: Path, quiet: bool, silence: float) -> None:
    # -P: modules are never taken from the working folder.
    command = [sys.executable, "-P", "-m", __name__, str(folder)]
    title = "downloading Temporal's command line"
    with tempfile.TemporaryFile() as said, Progress(title, "60 MB, once", quiet=quiet) as progress:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,  # so that the server that it starts can be ended with it
        )
        try:
            in_time = _follow(process, folder, progress, silence)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        reason = _last_line(said) if in_time else f"nothing arrived for {silence:g} s"
    complete = [path for path in folder.iterdir() if path.suffix != ".downloading"]
    if not complete:
        raise SetUpError(f"the download by Temporal's SDK failed: {reason}")
    complete[0].rename(folder / PROGRAM)


def _follow(
    process: subprocess.Popen[bytes], folder: Path, progress: Progress, silence: float
) -> bool:
    """Waits for the end; False: nothing has arrived for too long."""
    size, grown = -1, time.monotonic()
    while process.poll() is None:
        now = sum(path.stat().st_size for path in folder.iterdir())
        if now != size:
            size, grown = now, time.monotonic()
            progress.state = f"{size / 1e6:.0f} MB unpacked"
        elif time.monotonic() - grown > silence:
            return False
        time.sleep(_LOOK_EVERY)
    return True


def _last_line(said: IO[bytes]) -> str:
    said.seek(0)
    lines = said.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it says nothing"


async def _start_once(folder: str) -> None:
    """Starts a server, for which the SDK downloads the program, and ends it again."""
    from temporalio.testing import WorkflowEnvironment  # heavy, and for this process only

    environment = await WorkflowEnvironment.start_local(download_dest_dir=folder)
    await environment.shutdown()


def main() -> int:
    """Downloads into the folder given; what went wrong is the last line on stderr."""
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
