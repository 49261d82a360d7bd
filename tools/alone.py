"""Runs a command while no other process runs one under the same lock; waits for it, and says so.

python3 tools/alone.py LOCK_FILE COMMAND [ARGUMENT ...]     its exit code is this one's

The lock is let go of with the process, however that ends. Windows has none: there it is not waited.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Runs the command."""
    lock, *command = sys.argv[1:]
    with Path(lock).open("a") as file:
        if sys.platform != "win32":
            import fcntl  # not there on Windows

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"another make is at work here, waiting for it ({lock})", file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
