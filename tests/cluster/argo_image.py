"""Builds Argo Workflows and the image of its executor, to measure beside it.

Prints both as JSON; the first argument is the registry. Half an hour the first time on a busy
machine, then cached.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

# What the cluster shares with other set-up programs lies there.
sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "tools"))

from images import ensure_tree, write_users

from knit_workflows.provision.cache import SetUpError, cache_root, cached_folder
from knit_workflows.provision.go_build import GoPrograms, build_if_needed

VERSION: Final = "4.0.5"
"""The newest that Go's module proxy serves."""
_MODULE: Final = "github.com/argoproj/argo-workflows/v4"


def main() -> None:
    """Prints where the controller is, what its executor's image is called, and the version."""
    registry = sys.argv[1]
    source = cached_folder(cache_root() / "go" / f"argo-source-{VERSION}", _fetch)
    programs = GoPrograms(
        name=f"argo-{VERSION}",
        module=source,
        packages=("./cmd/argoexec", "./cmd/workflow-controller"),
        ldflags=f"-s -w -X {_MODULE}.version=v{VERSION}",
        takes="half an hour on a busy machine, once",
    )
    folder = build_if_needed(programs)

    def make(tree: Path) -> None:
        (tree / "bin").mkdir(parents=True)
        shutil.copy(folder / "argoexec", tree / "bin" / "argoexec")
        write_users(tree)

    name = f"knit-test/argoexec:{folder.name}"
    image = ensure_tree(registry, name, make, command=("/bin/argoexec",))
    controller = str(folder / "workflow-controller")
    print(json.dumps({"controller": controller, "image": image, "version": VERSION}))


def _fetch(making: Path) -> None:
    """Copies the module, as Go's checksum database knows it, and adds what it lacks.

    In Argo's repository `signal_linux.go` is a link to `signal_darwin.go`, and the archives of
    modules have no links: without it, the executor does not compile on Linux.
    """
    command = ["go", "mod", "download", "-json", f"{_MODULE}@v{VERSION}"]
    # Elsewhere than in a module, whose go.sum would have to know it.
    done = subprocess.run(command, cwd=making, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    if done.returncode != 0:
        raise SetUpError(f"Argo Workflows cannot be downloaded: {found.get('Error')}")
    shutil.copytree(found["Dir"], making, copy_function=shutil.copyfile, dirs_exist_ok=True)
    for path in (making, *making.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)  # a cache of modules is read-only
    signals = making / "workflow" / "executor" / "osspecific"
    shutil.copyfile(signals / "signal_darwin.go", signals / "signal_linux.go")


if __name__ == "__main__":
    main()
