"""Builds the images that tests run, from nothing but packages, into the loopback registry."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from debian_packages import ensure_packages
from layout import images_folder
from registry import ImageSettings, has_image, push_tree

from knit_workflows.provision.cache import SetUpError, cache_root, content_key

# Raise it when the way of making the trees changes: it is part of every image's tag.
FORMAT = "2"
PAUSE = f"knit-test/pause:{FORMAT}"
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_POD_PACKAGES = "python3,busybox-static"
_APP_PACKAGES = "python3-venv,ca-certificates"
_REPOSITORY = Path(__file__).resolve().parents[2]
_POD_SOURCES = (
    "knit_workflows/__init__.py",
    "knit_workflows/archive",
    "knit_workflows/backoff.py",
    "knit_workflows/http1",
    "knit_workflows/pod",
)
_APP_SOURCES = (
    *(f"requirements/{name}.txt" for name in ("runtime", "traces", "s3")),
    *("knit_workflows", "knit_api", "knit_cli"),
)


def ensure_images(
    registry: str, with_app: bool = False, sources: Path = _REPOSITORY
) -> dict[str, str]:
    """Returns image references by name; what is missing or of other sources is built and pushed.

    `busybox` has a shell and the usual programs, `nobody` is the same for another user than root,
    `python` adds Python 3 to it, `knit` holds
    knit's pod programs; with `with_app` also `app`, API and worker. `pause` is the node's own.
    """
    references = {
        "pause": ensure_tree(registry, PAUSE, busybox_tree, ("/bin/busybox", "sleep", "inf")),
        "busybox": ensure_tree(registry, f"knit-test/busybox:{FORMAT}", busybox_tree, ("/bin/sh",)),
        "nobody": ensure_tree(
            registry, f"knit-test/nobody:{FORMAT}", busybox_tree, ("/bin/sh",), user="65534:65534"
        ),
        "python": ensure_tree(
            registry,
            f"knit-test/python:{content_key(FORMAT, _POD_PACKAGES)}",
            _python_tree,
            ("/usr/bin/python3",),
        ),
    }
    bases = (references["python"], references["busybox"])
    references["knit"] = _ensure_build(registry, "pod", bases, sources, _POD_SOURCES)
    if with_app:
        name = f"knit-test/python-full:{content_key(FORMAT, _APP_PACKAGES)}"
        base = ensure_tree(registry, name, _full_python_tree, ("/usr/bin/python3",))
        bases = (base, references["busybox"])
        references["app"] = _ensure_build(registry, "app", bases, sources, _APP_SOURCES)
    return references


def forget_if_large(limit_bytes: int = 6 * 2**30) -> None:
    """Empties the stored images and layers when builds of many versions made them large.

    Only while no registry runs on them: what is needed is built again.
    """
    folders = [images_folder(), _storage()]
    files = (path for folder in folders for path in folder.rglob("*"))
    if sum(path.lstat().st_size for path in files) > limit_bytes:
        shutil.rmtree(images_folder())
        _remove_storage()


def ensure_tree(
    registry: str,
    name: str,
    make: Callable[[Path], None],
    command: tuple[str, ...] = ("/bin/sh",),
    search_path: str = SEARCH_PATH,
    user: str = "",
) -> str:
    """Returns the image `name`, of the tree that `make` fills, pushed if it is not there."""
    repository, tag = name.split(":")
    if not has_image(registry, repository, tag):
        with tempfile.TemporaryDirectory() as folder:
            tree = Path(folder, "tree")
            make(tree)
            settings = ImageSettings(command, user, {"PATH": search_path})
            push_tree(registry, repository, tag, tree, settings)
    return f"{registry}/{name}"


def busybox_tree(tree: Path) -> None:
    """Fills `tree` with a shell and the usual programs."""
    (tree / "bin").mkdir(parents=True)
    ensure_packages(["busybox-static"], "the busybox image")
    busybox = shutil.which("busybox")
    if busybox is None:
        raise SetUpError("busybox-static is installed but `busybox` is not on PATH.")
    shutil.copy(busybox, tree / "bin" / "busybox")
    link_programs(tree)
    write_users(tree)


def link_programs(tree: Path) -> None:
    """Links every program that busybox can be, unless the tree has a real one."""
    busybox = tree / "bin" / "busybox"
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    present = {p.name for d in ("bin", "usr/bin", "usr/sbin") for p in (tree / d).glob("*")}
    for name in set(listed.stdout.split()) - present:
        (tree / "bin" / name).symlink_to("busybox")


def write_users(tree: Path, **more: int) -> None:
    """Writes the users root and nobody, `more` by their numbers, and makes `/tmp`."""
    (tree / "etc").mkdir(exist_ok=True)
    for file, numbers in (
        ("passwd", {"root": 0, "nobody": 65534, **more}),
        ("group", {"root": 0, "nogroup": 65534, **more}),
    ):
        rest = ":{0}::/:/bin/sh" if file == "passwd" else ":"
        lines = [f"{name}:x:{n}{rest.format(n)}\n" for name, n in numbers.items()]
        (tree / "etc" / file).write_text("".join(lines))
    (tree / "tmp").mkdir(exist_ok=True)
    (tree / "tmp").chmod(0o1777)


def _python_tree(tree: Path) -> None:
    """Unpacks Python's packages without installing them, which makes a third of the size."""
    bootstrap("extract", _POD_PACKAGES, tree)
    link_programs(tree)
    write_users(tree)
    for documents in ("usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(tree / documents, ignore_errors=True)
    # The packages are compiled when installed; here that is ours to do, or every start pays for it.
    compile_all = ["/usr/bin/python3", "-m", "compileall", "-q", "/usr/lib/python3.11"]
    compile_all += ["--invalidation-mode", "unchecked-hash"]
    _run("compiling Python's library", "chroot", str(tree), *compile_all)


def _full_python_tree(tree: Path) -> None:
    bootstrap("minbase", _APP_PACKAGES, tree)


def bootstrap(variant: str, packages: str, tree: Path) -> None:
    """Fills `tree` with Debian packages, as a variant of `mmdebstrap`."""
    ensure_packages(["mmdebstrap"], "the images' base")
    sources = [*Path("/etc/apt").glob("sources.list"), *_listed_sources()]
    command = ["mmdebstrap", "--quiet", f"--variant={variant}", f"--include={packages}"]
    command += [_suite(), str(tree), *map(str, sources)]
    _run("mmdebstrap", *command)


def _listed_sources() -> Iterator[Path]:
    folder = Path("/etc/apt/sources.list.d")
    yield from sorted(p for p in folder.glob("*") if "debian" in p.name and _is_sources(p))


def _is_sources(path: Path) -> bool:
    return path.suffix in (".list", ".sources")


def _suite() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        name, _, value = line.partition("=")
        if name == "VERSION_CODENAME":
            return value.strip('"')
    raise SetUpError("The test images need a Debian machine, for its packages.")


def _ensure_build(
    registry: str, target: str, bases: tuple[str, str], sources: Path, paths: tuple[str, ...]
) -> str:
    """Builds one target of the Containerfile, tagged by the content of all that goes into it.

    `bases` are the images that it starts from: the one with Python, and any one to run Go in.
    """
    files = [_REPOSITORY / "Containerfile", *_source_files(sources, paths)]
    parts = [part for f in files for part in (str(f.relative_to(f.anchor)), f.read_bytes())]
    repository, tag = f"knit-test/{target}", content_key(FORMAT, bases[0].split("/", 1)[1], *parts)
    reference = f"{registry}/{repository}:{tag}"
    if not has_image(registry, repository, tag):
        ensure_packages(["buildah", "runc"], "building images")
        with tempfile.TemporaryDirectory() as folder:
            _build(Path(folder), target, bases, reference, sources, files)
    return reference


def _source_files(sources: Path, paths: tuple[str, ...]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        start = sources / path
        found += [start] if start.is_file() else sorted(start.rglob("*"))
    kept = [f for f in found if f.is_file() and "__pycache__" not in f.parts]
    if not kept:
        raise SetUpError(f"None of {', '.join(paths)} is in {sources}.")
    return kept


def _build(
    folder: Path,
    target: str,
    bases: tuple[str, str],
    reference: str,
    sources: Path,
    files: list[Path],
) -> None:
    context = folder / "context"
    for file in files:
        root = sources if file.is_relative_to(sources) else _REPOSITORY
        copy = context / file.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    engine = _engine(folder)
    build = [*engine, "bud", "--isolation", "chroot", "--quiet", "--tls-verify=false", "--layers"]
    base, go_image = bases
    build += ["--target", target, "--build-arg", f"BASE_IMAGE={base}", "--tag", reference]
    build += ["--build-arg", f"GO_IMAGE={go_image}", *_go_volumes()]
    build += ["--volume", f"{_package_settings(folder)}:/etc/pip.conf:ro"]
    build += ["--volume", "/etc/ssl/certs:/etc/ssl/certs:ro", str(context)]
    try:
        _run(f"building the {target} image", *build)
    except SetUpError as error:
        # Perhaps a build that was killed left its storage broken; without it the cause is real.
        print(f"{error}\nbuilding again from nothing", file=sys.stderr)
        _remove_storage()
        _run(f"building the {target} image", *build)
    # Uncompressed: the registry is on this machine, and compressing would cost more than it saves.
    push = [*engine, "push", "--quiet", "--tls-verify=false", "--disable-compression", reference]
    _run(f"pushing {reference}", *push)


def _go_volumes() -> list[str]:
    """Returns where a build finds this machine's Go, and what that has compiled already."""
    places = {"GOROOT": "/usr/local/go:ro", "GOCACHE": "/var/cache/go-build"}
    found = subprocess.run(
        ["go", "env", *places], capture_output=True, text=True, check=True
    ).stdout.split()
    for folder in found:
        Path(folder).mkdir(parents=True, exist_ok=True)
    pairs = zip(found, places.values(), strict=True)
    return [word for place, at in pairs for word in ("--volume", f"{place}:{at}")]


def _engine(folder: Path) -> list[str]:
    """Returns buildah's command with storage of our own, whose layers make the next build short."""
    policy = folder / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    engine = ["buildah", "--root", str(_storage()), "--runroot", str(folder / "run")]
    return [*engine, "--storage-driver", "overlay", "--signature-policy", str(policy)]


def _storage() -> Path:
    return cache_root() / "cluster" / "build"


def _remove_storage() -> None:
    for mount in (_storage() / "overlay", _storage()):
        subprocess.run(["umount", "--quiet", str(mount)], capture_output=True)
    shutil.rmtree(_storage(), ignore_errors=True)


def _package_settings(folder: Path) -> Path:
    """Writes how pip reaches its index from inside a build: as it does from this machine."""
    lines = ["[global]", "cert = /etc/ssl/certs/ca-certificates.crt"]
    if index := os.environ.get("PIP_INDEX_URL"):
        lines.append(f"index-url = {index}")
    path = folder / "pip.conf"
    path.write_text("\n".join(lines) + "\n")
    return path


def _run(what: str, *command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SetUpError(f"{what} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}".rstrip())
