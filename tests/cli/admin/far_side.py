"""What `kubectl exec` would start in a pod: the far side, whose volumes are agents in threads.

Everything else that kubectl is asked is answered from a file, and written down.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import ModuleType


def main() -> None:
    home = Path(os.environ["FAR_HOME"])
    words = sys.argv[1:]
    if "exec" in words:
        answer(home, words[words.index("knit_workflows.backup.far") + 1 :])
        return
    given = sys.stdin.read() if "create" in words else ""
    with (home / "calls").open("a") as calls:
        calls.write(json.dumps([words, given]) + "\n")
    if "get" in words:
        kind = words[words.index("get") + 1]
        sys.stdout.write((home / kind).read_text())


def answer(home: Path, words: list[str]) -> None:
    if (home / "cut").exists():
        sys.stdout.buffer.write(b"M\0\0")
        return
    from knit_workflows.backup import far  # late: most calls are not these
    from knit_workflows.settings import ComputeSettings
    from tests.unit.backup.agents import Agents

    def backend_from(settings: ComputeSettings) -> Agents:
        assert settings.kubernetes.volume_folders is None, "it gives no address of an agent then"
        return Agents(home / "volumes")

    # What it would load for its `backend_from` takes much longer than the test.
    stand_in = ModuleType("knit_workflows.worker")
    stand_in.__dict__["backend_from"] = backend_from
    sys.modules["knit_workflows.worker"] = stand_in
    far.main(words)


if __name__ == "__main__":
    main()
