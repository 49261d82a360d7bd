"""Images of what knit's charts install besides knit, for a node that can pull from no registry.

They have the programs and users that the official images have, and no more: PostgreSQL and nginx
from Debian's packages, image registry and Temporal built with Go. Minutes the first time, then
cached.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final

# What the cluster shares with other set-up programs lies there.
sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "tools"))

from images import SEARCH_PATH, bootstrap, busybox_tree, ensure_tree, link_programs, write_users

from knit_workflows.provision.cache import content_key
from knit_workflows.provision.go_build import GoPrograms, build_if_needed
from knit_workflows.provision.temporal_cli import obtain_temporal

# Raise it when the way of making the trees changes: it is part of every image's tag.
_FORMAT = "1"
# util-linux for flock, which the official image has from there, too.
_POSTGRES_PACKAGES = "postgresql-15,busybox-static,util-linux"
_NGINX_PACKAGES = "nginx-light,busybox-static"
# The number of the user in the official image, which the chart's default is.
_POSTGRES_USER = 999
_MODULES = Path(__file__).resolve().parent / "programs"

REGISTRY: Final = GoPrograms(
    name="registry-3.0.0",
    module=_MODULES / "registry",
    packages=("github.com/distribution/distribution/v3/cmd/registry",),
)
TEMPORAL: Final = GoPrograms(
    name="temporal-server-1.29.1",
    module=_MODULES / "temporal",
    packages=("go.temporal.io/server/cmd/server", "go.temporal.io/server/cmd/tools/sql"),
)
TEMPORAL_UI: Final = GoPrograms(
    name="temporal-ui-2.45.1",
    module=_MODULES / "temporal-ui",
    packages=("github.com/temporalio/ui-server/v2/cmd/server",),
)


def ensure_chart_images(registry: str, names: Iterable[str] = ()) -> dict[str, str]:
    """Returns image references by name, all without `names`; what is missing is made."""
    return {name: _MAKERS[name](registry) for name in names or _MAKERS}


def _postgres(registry: str) -> str:
    path = f"{SEARCH_PATH}:/usr/lib/postgresql/15/bin"
    return _image(registry, "postgres", _POSTGRES_PACKAGES, _postgres_tree, path)


def _postgres_tree(tree: Path) -> None:
    _debian_tree(_POSTGRES_PACKAGES, tree)
    write_users(tree, postgres=_POSTGRES_USER)


def _nginx(registry: str) -> str:
    make = partial(_debian_tree, _NGINX_PACKAGES)
    return _image(registry, "nginx", _NGINX_PACKAGES, make)


def _debian_tree(packages: str, tree: Path) -> None:
    bootstrap("extract", packages, tree)
    link_programs(tree)
    write_users(tree)
    for documents in ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/i18n"):
        shutil.rmtree(tree / documents, ignore_errors=True)


def _registry(registry: str) -> str:
    return _program_image(registry, "registry", {"bin/registry": lambda: _built(REGISTRY)})


def _temporal(registry: str) -> str:
    place = "usr/local/bin/temporal-server"
    return _program_image(registry, "temporal", {place: lambda: _built(TEMPORAL, "server")})


def _temporal_tools(registry: str) -> str:
    programs = {
        "usr/local/bin/temporal-sql-tool": lambda: _built(TEMPORAL, "sql"),
        "usr/local/bin/temporal": obtain_temporal,
    }
    return _program_image(registry, "temporal-tools", programs)


def _temporal_ui(registry: str) -> str:
    place = "home/ui-server/ui-server"
    return _program_image(registry, "temporal-ui", {place: lambda: _built(TEMPORAL_UI, "server")})


def _built(programs: GoPrograms, name: str = "registry") -> Path:
    return build_if_needed(programs) / name


def _program_image(registry: str, name: str, programs: dict[str, Callable[[], Path]]) -> str:
    """Makes an image of busybox and these programs, by their places in it."""

    def make(tree: Path) -> None:
        busybox_tree(tree)
        for place, program in programs.items():
            (tree / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(program(), tree / place)

    folders = (REGISTRY.folder(), TEMPORAL.folder(), TEMPORAL_UI.folder())
    return _image(registry, name, " ".join(folder.name for folder in folders), make)


def _image(
    registry: str, name: str, content: str, make: Callable[[Path], None], path: str = SEARCH_PATH
) -> str:
    tag = content_key(_FORMAT, content)
    return ensure_tree(registry, f"knit-test/{name}:{tag}", make, search_path=path)


_MAKERS: Final = {
    "postgres": _postgres,
    "nginx": _nginx,
    "registry": _registry,
    "temporal": _temporal,
    "temporal-tools": _temporal_tools,
    "temporal-ui": _temporal_ui,
}


def main() -> None:
    """Prints the images as JSON; the first argument is the registry, more name some of them."""
    registry, *names = sys.argv[1:]
    print(json.dumps(ensure_chart_images(registry, names)))


if __name__ == "__main__":
    main()
