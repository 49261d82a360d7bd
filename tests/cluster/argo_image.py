"""Builds Argo Workflows and the image of its executor, to measure beside it.

Prints both as JSON; the first argument is the registry. Minutes the first time, then cached.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Final

# What the cluster shares with other set-up programs lies there.
sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "tools"))

from images import ensure_tree, write_users

from knit_workflows.provision.go_build import GoPrograms, build_if_needed

VERSION: Final = "4.0.5"
_MODULE: Final = "github.com/argoproj/argo-workflows/v4"
_PROGRAMS: Final = GoPrograms(
    name=f"argo-{VERSION}",
    module=Path(__file__).resolve().parent / "programs" / "argo",
    packages=(f"{_MODULE}/cmd/argoexec", f"{_MODULE}/cmd/workflow-controller"),
    ldflags=f"-s -w -X {_MODULE}.version=v{VERSION}",
    takes="ten minutes or more, once",
)


def main() -> None:
    """Prints where the controller is, what its executor's image is called, and the version."""
    registry = sys.argv[1]
    folder = build_if_needed(_PROGRAMS)

    def make(tree: Path) -> None:
        (tree / "bin").mkdir(parents=True)
        shutil.copy(folder / "argoexec", tree / "bin" / "argoexec")
        write_users(tree)

    name = f"knit-test/argoexec:{folder.name}"
    image = ensure_tree(registry, name, make, command=("/bin/argoexec",))
    controller = str(folder / "workflow-controller")
    print(json.dumps({"controller": controller, "image": image, "version": VERSION}))


if __name__ == "__main__":
    main()
