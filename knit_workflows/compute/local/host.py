"""Builds the bubblewrap command of `host/…` images, which are commands of this machine."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from knit_workflows.compute.base import RunPod
from knit_workflows.compute.local.folders import StateFolder
from knit_workflows.compute.local.supervisor import CARRIED, IN_SANDBOX, WITH_ENVIRONMENT
from knit_workflows.domain.errors import BackendRejected
from knit_workflows.domain.volumes import Volume
from knit_workflows.provision.sandbox import PACKAGE, install_advice
from knit_workflows.settings import LocalSettings

PREFIX: Final = "host/"

_SYSTEM: Final = ("/usr", "/etc", "/opt")
_LINKED: Final = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_NAME_SERVICE: Final = "/run/systemd/resolve"
"""Where `/etc/resolv.conf` points to on machines with systemd-resolved."""
_GPUS: Final = ("nvidia*", "dri", "kfd")
_SEARCH: Final = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


@dataclass(frozen=True, slots=True)
class SandboxCommand:
    """The command line that starts a sandbox, and options that `ps` must not show."""

    command: tuple[str, ...]
    options: tuple[str, ...]


def is_host_image(image: str) -> bool:
    """Says whether an image means commands of the machine itself."""
    return image.startswith(PREFIX)


def sandbox_command(pod: RunPod, state: StateFolder, settings: LocalSettings) -> SandboxCommand:
    """Builds the command of a pod's sandbox; raises BackendRejected if there can be none here."""
    if not settings.host_images:
        raise BackendRejected(
            f"images of the machine itself are not allowed here: {pod.image}",
            advice="use a container image",
        )
    bubblewrap = shutil.which("bwrap", path=settings.environment.get("PATH", os.defpath))
    if bubblewrap is None:
        raise BackendRejected(
            f"the image {pod.image} needs bubblewrap, which is not installed",
            advice=f"{install_advice(PACKAGE)}, or use a container image",
        )
    options = tuple(_options(pod, state, settings))
    if any("\0" in text for text in (*options, *pod.entrypoint, *pod.args)):
        raise BackendRejected(
            "a command, a path or an environment variable holds a NUL character",
            advice="no program can receive one: remove it",
        )
    user_command = (*pod.entrypoint, *pod.args)
    if not user_command:
        # There is no image that could have a command of its own.
        user_command = ("sh", "-c", f"echo '{PREFIX}… images need an entrypoint or args'; exit 127")
    if pod.env:
        python = (sys.executable, "-I", "-S", "-c", WITH_ENVIRONMENT)
        user_command = (*python, str(len(pod.env)), *user_command)
    inner = ("/bin/sh", "-c", IN_SANDBOX, "sh", *user_command)
    return SandboxCommand(
        (bubblewrap, "--args", "3", "--info-fd", "4", "--", *inner),
        options,
    )


def _options(pod: RunPod, state: StateFolder, settings: LocalSettings) -> Iterator[str]:
    yield from ("--die-with-parent", "--unshare-ipc", "--unshare-pid", "--unshare-uts")
    yield "--unshare-cgroup-try"
    if not settings.network:
        yield "--unshare-net"
    yield from ("--hostname", pod.name[:63], "--cap-drop", "ALL")
    # A root of its own, so that mountpoints can be created anywhere.
    yield from ("--tmpfs", "/")
    for path in _SYSTEM:
        yield from ("--ro-bind-try", path, path)
    yield from _linked()
    yield from ("--ro-bind-try", "/sys", "/sys", "--proc", "/proc", "--dev", "/dev")
    yield from ("--tmpfs", "/tmp", "--tmpfs", "/var/tmp", "--dir", "/run")
    if settings.network:
        yield from ("--ro-bind-try", _NAME_SERVICE, _NAME_SERVICE)
    if any("gpu" in name for name in pod.resources):
        for device in _devices(_GPUS):
            yield from ("--dev-bind-try", device, device)
    for path in _own_paths(settings):
        yield from ("--ro-bind-try", path, path)
    yield from _mounts(pod, state)
    yield from ("--chdir", "/tmp", "--clearenv")
    for key, value in _environment().items():
        yield from ("--setenv", key, value)
    for number, (key, value) in enumerate(pod.env.items()):
        yield from ("--setenv", f"{CARRIED}{number}", f"{key}={value}")


def _linked() -> Iterator[str]:
    """Binds `/bin` and the like as the machine has them: links into `/usr`, or folders."""
    for name in _LINKED:
        path = Path(name)
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), name)
        elif path.is_dir():
            yield from ("--ro-bind", name, name)


def _devices(patterns: Iterable[str]) -> list[str]:
    return sorted(str(found) for pattern in patterns for found in Path("/dev").glob(pattern))


def _own_paths(settings: LocalSettings) -> list[str]:
    """Gives knit's own Python, so that there always is a `python3`, and the `host_paths`."""
    wanted = [Path(sys.base_prefix), Path(sys.prefix), *settings.host_paths]
    system = tuple(Path(path) for path in _SYSTEM)
    unique = dict.fromkeys(path.absolute() for path in wanted)
    return [str(path) for path in unique if not any(path.is_relative_to(p) for p in system)]


def _environment() -> dict[str, str]:
    search = dict.fromkeys((f"{sys.prefix}/bin", f"{sys.base_prefix}/bin", *_SEARCH))
    return {"PATH": ":".join(search), "HOME": "/tmp", "LANG": "C.UTF-8"}


def _mounts(pod: RunPod, state: StateFolder) -> Iterator[str]:
    def bound(option: str, path: str, volume: Volume) -> tuple[str, str, str]:
        return option, str(state.volume(volume)), path

    mounts = [(m.path, bound("--ro-bind", m.path, m.volume)) for m in pod.inputs]
    mounts += [(m.path, bound("--bind", m.path, m.volume)) for m in pod.outputs]
    # Outer mounts first, or they would hide the inner ones.
    for _, options in sorted(mounts):
        yield from options
