"""Succeeds only if folders are empty: the init container that guards outputs and log of a Run.

Run as ``python3 -m knit_workflows.pod.check_empty PATH...``. It keeps a Run from writing into
Data that exists already, and catches outputs that share one volume.
"""

from __future__ import annotations

import os
import sys

from knit_workflows.archive import tree
from knit_workflows.pod.termination import TERMINATION_LOG, explain


def complaint(path: str) -> str | None:
    """What keeps the path from being an empty folder, as a sentence; None if it is one."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return f"{path} does not exist."
    except NotADirectoryError:
        return f"{path} is not a folder."
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}."
    try:
        if tree.is_empty(descriptor):
            return None
        with os.scandir(descriptor) as entries:
            first = min(entry.name for entry in entries)
    except (OSError, ValueError) as error:
        return f"{path} cannot be read: {error}."
    finally:
        os.close(descriptor)
    return f"{path} is not empty: it has {first!r} in it. Outputs and logs must start empty."


def main(paths: list[str], termination_log: str = TERMINATION_LOG) -> int:
    """The exit code: 0 if every path is an empty folder, 1 if not, 2 if there is no path."""
    if not paths:
        explain("empty: name the folders that must be empty.", termination_log)
        return 2
    for path in paths:
        sentence = complaint(path)
        if sentence is not None:
            explain(sentence, termination_log)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
