"""Launches run pods in processes that kill themselves (-9) in the middle, each at another line.

Usage: `python -m tests.contract.compute.crashing_launch RECIPE PODS`; RECIPE is JSON, see
`backend_from`, PODS a pickled list of run pods. The first is launched in peace, to count the lines
of knit's compute code; the others by processes killed at lines spread evenly over that count.
Prints the count when all processes have ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from knit_workflows import compute
from knit_workflows.compute.base import RunPod
from knit_workflows.compute.local import LocalBackend
from knit_workflows.settings import LocalSettings

WATCHED = str(Path(compute.__file__).parent)


def backend_from(recipe: dict[str, Any]) -> LocalBackend:
    """Builds the back-end that an adapter's `crash_recipe` describes: the local one's settings."""
    return LocalBackend(LocalSettings(**{**recipe, "state": Path(recipe["state"])}))


class Lines:
    """Counts executed lines of compute code in all threads, and calls back at one of them."""

    def __init__(self, at: int | None, then: Callable[[], None]) -> None:
        self.count = 0
        self._at, self._then = at, then

    def trace(self, frame: FrameType, event: str, _: object) -> Any:
        """The trace function, see `sys.settrace`."""
        if not frame.f_code.co_filename.startswith(WATCHED):
            return None
        if event == "line":
            self.count += 1
            if self.count == self._at:
                self._then()
        return self.trace


async def launch(recipe: dict[str, Any], pod: RunPod, at: int | None) -> int:
    """Launches a pod; die at the given line. Gives the number of lines that the launch took."""
    backend = backend_from(dict(recipe))
    await backend.open()
    lines = Lines(at, lambda: os.kill(os.getpid(), signal.SIGKILL))
    threading.settrace(lines.trace)
    sys.settrace(lines.trace)
    # The trace takes hold in frames begun from now on.
    await asyncio.create_task(backend.launch(pod))
    sys.settrace(None)
    threading.settrace(None)
    await backend.aclose()
    return lines.count


def in_child(recipe: dict[str, Any], pod: RunPod, at: int | None) -> int:
    """Launches in a forked process and waits for its end; gives how many lines, 0 if killed."""
    with tempfile.TemporaryFile("w+") as answer:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                print(asyncio.run(launch(recipe, pod, at)), file=answer, flush=True)
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
            raise SystemExit("a launch failed, see above")
        answer.seek(0)
        return int(answer.read() or 0)


def main() -> None:
    """Launches and kills."""
    recipe: dict[str, Any] = json.loads(sys.argv[1])
    first, *others = pickle.loads(Path(sys.argv[2]).read_bytes())
    total = in_child(recipe, first, None)
    for number, pod in enumerate(others):
        in_child(recipe, pod, 1 + number * total // len(others))
    print(total)


if __name__ == "__main__":
    main()
