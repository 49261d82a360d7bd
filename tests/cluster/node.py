"""Is the node's first process: starts the components in namespaces of their own and ends with them.

A component that somebody kills is started again, as an init system would; one that ends by itself
ends the node, which says so. All of them live in one process namespace whose process 1 this is, so
ending it by its id ends every one, containers included, and all their mounts go with the mount
namespace.
Started as: node.py LAYOUT_FILE KUBERNETES_FOLDER; prints the id of that process and returns.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

import cgroups
from components import Command, first_commands, later_commands
from kube_api import Access, KubeApi
from layout import CNI_FOLDER, KUBELET_FOLDER, Layout

from knit_workflows.provision.cache import SetUpError

_CLONE_NEWNS = 0x00020000
_CLONE_NEWPID = 0x20000000
_API_PATIENCE_SECONDS = 60
ENDED = "ended"


def main() -> None:
    """Forks the first process of a new process namespace; prints its id as the machine sees it."""
    layout, kubernetes = Layout.read(Path(sys.argv[1])), Path(sys.argv[2])
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS | _CLONE_NEWPID) != 0:
        sys.exit(f"namespaces are refused: {os.strerror(ctypes.get_errno())}")
    may_go, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go)
        os.read(may_go, 1)
        _become_node(layout, kubernetes)
    cgroups.join_daemons(child)
    os.write(go, b"1")
    print(child)


def _become_node(layout: Layout, kubernetes: Path) -> NoReturn:
    try:
        os.setsid()
        _redirect_output(layout.logs / "node.log")
        _isolate_mounts(layout)
        reason = _run(layout, kubernetes)
    except BaseException:
        reason = traceback.format_exc()
    (layout.state / ENDED).write_text(reason)
    os._exit(1)


def _redirect_output(path: Path) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for target, source in ((0, null), (1, log), (2, log)):
        os.dup2(source, target)


def _isolate_mounts(layout: Layout) -> None:
    """Gives the node its own /run, /var/log and CNI results; its mounts stay inside."""
    _mount("--make-rprivate", "/")
    # The kubelet wants propagation from the host's mounts to its containers'.
    _mount("--make-rshared", "/")
    _mount("-t", "proc", "proc", "/proc")
    _mount("-t", "tmpfs", "tmpfs", "/run")
    binds = {"kubelet": KUBELET_FOLDER, "cni": CNI_FOLDER, "var-log": Path("/var/log")}
    for name, target in binds.items():
        source = layout.state / name
        source.mkdir()
        target.mkdir(parents=True, exist_ok=True)
        _mount("--bind", str(source), str(target))


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _run(layout: Layout, kubernetes: Path) -> str:
    """Starts everything, then waits; returns the sentence that says which component ended first."""
    commands = first_commands(layout, kubernetes)
    running = {_start(layout, name, command): name for name, command in commands.items()}
    api = KubeApi(Access.in_folder(layout.server, layout.certificates))
    deadline = time.monotonic() + _API_PATIENCE_SECONDS
    while not api.is_ready():
        if ended := _ended(running):
            return _sentence(*ended)
        if time.monotonic() > deadline:
            raise SetUpError(f"The API server was not ready in {_API_PATIENCE_SECONDS} s.")
        time.sleep(0.1)
    later = later_commands(layout, kubernetes)
    running |= {_start(layout, name, command): name for name, command in later.items()}
    return _kept_running(layout, {**commands, **later}, running)


def _kept_running(layout: Layout, commands: dict[str, Command], running: dict[int, str]) -> str:
    """Starts what is killed again; returns when a component ends by itself, with the sentence."""
    while True:
        if (ended := _ended(running, wait=True)) is None:
            continue
        name, code = ended
        if code != -signal.SIGKILL:
            return _sentence(name, code)
        print(f"{name} was killed and is started again.", flush=True)
        running[_start(layout, name, commands[name])] = name


def _start(layout: Layout, name: str, command: Command) -> int:
    with (layout.logs / f"{name}.log").open("ab") as log:
        # A caller's proxy settings must not come between the components.
        environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        started = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
        )
    started.returncode = 0  # We reap by ourselves, orphans too; Popen must not wait for it.
    return started.pid


def _ended(running: dict[int, str], wait: bool = False) -> tuple[str, int] | None:
    """Reaps whatever has ended, as process 1 must; gives name and code of one of `running`."""
    while True:
        pid, status = os.waitpid(-1, 0 if wait else os.WNOHANG)
        if pid == 0:
            return None
        if name := running.pop(pid, ""):
            return name, os.waitstatus_to_exitcode(status)


def _sentence(name: str, code: int) -> str:
    return f"{name} ended with code {code}."


if __name__ == "__main__":
    main()
