"""Images of the machine itself: what a sandbox sees, and what becomes of it in bad times."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from knit_workflows.compute.base import Observation, Phase
from knit_workflows.compute.local import LocalBackend
from knit_workflows.compute.local.pod_folder import SupervisorState, read_state
from knit_workflows.compute.local.processes import find_process
from knit_workflows.compute.local.supervisor import NICENESS
from knit_workflows.domain.errors import BackendRejected, BackendUnavailable, KnitError
from knit_workflows.domain.runs.run import Exit
from knit_workflows.domain.volumes import Mount, Volume
from knit_workflows.settings import LocalSettings
from tests.waiting import PATIENCE

from .conftest import MakePod, ended, until

pytestmark = pytest.mark.engine


def output(settings: LocalSettings, name: str = "log", pod: str = "pod") -> str:
    """A file of the log, or of the output."""
    folder = f"{pod}-log" if name == "log" else f"{pod}-out"
    return (settings.state / "volumes" / folder / name).read_text()


def sandbox_of(settings: LocalSettings) -> tuple[int, int]:
    """Numbers of the supervisor and of the first process in the sandbox."""
    reported = read_state(settings.state / "pods" / "pod")
    assert reported is not None
    assert reported.supervisor is not None
    assert reported.sandbox is not None
    return reported.supervisor[0], reported.sandbox


# --- what it sees ------------------------------------------------------------------------------


async def test_knits_python_is_there(
    backend: LocalBackend, settings: LocalSettings, make_pod: MakePod
) -> None:
    """Plans may rely on `python3`, with the usual signals."""
    script = "import signal; print(signal.getsignal(signal.SIGINT).__name__)"
    pod = replace(make_pod(""), entrypoint=("python3",), args=("-c", script))
    assert (await ended(backend, pod)).phase is Phase.SUCCEEDED
    assert output(settings) == "default_int_handler\n"


async def test_a_sandbox_sees_nothing_else(
    backend: LocalBackend, settings: LocalSettings, make_pod: MakePod
) -> None:
    """Neither the state folder, nor other processes, nor descriptors of ours."""
    script = f"ls -A {settings.state}; ls -A /in /out; ls /proc/self/fd; ps; echo $$"
    assert (await ended(backend, make_pod(script))).phase is Phase.SUCCEEDED
    said = output(settings)
    assert f"'{settings.state}': No such file" in said
    descriptors = said.partition("/out:\n")[2].split()[:5]
    assert descriptors[:4] == ["0", "1", "2", "3"]  # 3 is the folder that `ls` reads.
    assert descriptors[4] == "PID"
    assert said.endswith("\n2\n")


async def test_what_a_shell_would_change_of_the_environment_is_as_given(
    backend: LocalBackend, settings: LocalSettings, make_pod: MakePod
) -> None:
    """And no command line shows it."""
    env = {"my.var": "1", "IFS": ":", "PWD": "/nowhere", "PATH": "/usr/bin", "KNIT_CARRIED_0": "x"}
    pod = replace(make_pod(""), entrypoint=("env",), args=(), env=env)
    assert (await ended(backend, pod)).phase is Phase.SUCCEEDED
    seen = dict(line.split("=", 1) for line in output(settings).splitlines())
    assert seen.items() >= env.items()
    assert seen["HOME"] == "/tmp"
    assert not [name for name in seen if name.startswith("KNIT_")][1:]


@pytest.mark.parametrize(
    ("content", "code", "log"),
    [
        (None, 127, "/in/x: not found\n"),
        (b"", 126, "/in/x: Permission denied\n"),
        (b"echo $my_var", 0, "1\n"),
        (b"#!/bin/sh\nyes | head -n 1; exit 3", 3, "y\n"),
    ],
    ids=["none", "not executable", "without an interpreter", "usual"],
)
async def test_with_an_environment_a_command_starts_as_without(
    backend: LocalBackend,
    settings: LocalSettings,
    make_pod: MakePod,
    content: bytes | None,
    code: int,
    log: str,
) -> None:
    """Codes are those of a shell, and a broken pipe ends who writes to it."""
    pod = replace(make_pod(""), entrypoint=("/in/x",), args=(), env={"my_var": "1"})
    await backend.create_volume(pod.inputs[0].volume)
    if content is not None:
        path = settings.state / "volumes" / "pod-in" / "x"
        path.write_bytes(content)
        path.chmod(0o755 if content else 0o644)
    end = await ended(backend, pod)
    assert end.exit is not None
    assert end.exit.code == code
    assert output(settings) == log


async def test_a_sandbox_has_no_capability(
    backend: LocalBackend, settings: LocalSettings, make_pod: MakePod
) -> None:
    """So root in it cannot make its inputs writable."""
    script = "grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status"
    assert (await ended(backend, make_pod(script))).phase is Phase.SUCCEEDED
    assert output(settings).split() == ["CapEff:", "0" * 16, "NoNewPrivs:", "1"]


async def test_a_sandbox_leaves_the_cores_to_others(
    backend: LocalBackend, settings: LocalSettings, make_pod: MakePod
) -> None:
    """People wait for pushes and pulls, and for what else they do on this machine."""
    assert (await ended(backend, make_pod("nice"))).phase is Phase.SUCCEEDED
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    assert int(output(settings)) == min(19, ours + NICENESS)


@pytest.mark.parametrize("network", [True, False])
async def test_the_network_is_a_setting(
    settings: LocalSettings, make_pod: MakePod, backend: LocalBackend, network: bool
) -> None:
    """Without it there is only the loopback."""
    del backend
    other = LocalBackend(settings.model_copy(update={"network": network}))
    await other.open()
    await ended(other, make_pod("readlink /proc/self/ns/net"))
    await other.aclose()
    ours = str(Path("/proc/self/ns/net").readlink())
    assert (output(settings).strip() == ours) is network


async def test_further_paths_are_a_setting(
    settings: LocalSettings, make_pod: MakePod, backend: LocalBackend, tmp_path: Path
) -> None:
    """Reads-only."""
    del backend
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "one").write_text("tool\n")
    other = LocalBackend(settings.model_copy(update={"host_paths": (tmp_path / "tools",)}))
    await other.open()
    await ended(other, make_pod(f"cat {tmp_path}/tools/one; echo x > {tmp_path}/tools/two"))
    await other.aclose()
    assert output(settings).startswith("tool\n")
    assert not (tmp_path / "tools" / "two").exists()


@pytest.mark.parametrize("path", ["/out", "/tmp/out", "/a/b/c/d e", "/home/out", "/opt-ml/x"])
async def test_mountpoints_may_be_anywhere(
    backend: LocalBackend, settings: LocalSettings, make_pod: MakePod, path: str
) -> None:
    """The sandbox's root is its own."""
    pod = make_pod(f"echo made > '{path}/file'", outputs=(Mount(path, Volume("pod-out", "o")),))
    assert (await ended(backend, pod)).phase is Phase.SUCCEEDED
    assert output(settings, "file") == "made\n"


# --- how it fails ------------------------------------------------------------------------------


async def test_a_sandbox_that_cannot_be_made_says_why(
    backend: LocalBackend, make_pod: MakePod
) -> None:
    """A mountpoint in the machine's own folders is impossible."""
    pod = make_pod("true", outputs=(Mount("/usr/out", Volume("pod-out", "o")),))
    end = await ended(backend, pod)
    assert end.exit is not None
    assert end.exit.code == 128
    assert end.exit.message.startswith("(container main) StartError: bwrap: ")
    assert "/usr/out" in end.exit.message


async def test_a_host_image_needs_a_command(
    backend: LocalBackend, settings: LocalSettings, make_pod: MakePod
) -> None:
    """There is no image that could have one; the log says so."""
    end = await ended(backend, make_pod("", entrypoint=(), args=()))
    assert end.exit == Exit(127, "(container main) Error: a command was not found")
    assert "need an entrypoint or args" in output(settings)


async def test_a_missing_command_is_127(backend: LocalBackend, make_pod: MakePod) -> None:
    """As in a shell."""
    end = await ended(backend, make_pod("", entrypoint=("no-such-command",)))
    assert end.exit == Exit(127, "(container main) Error: a command was not found")


async def test_a_command_killed_by_a_signal_names_it(
    backend: LocalBackend, make_pod: MakePod
) -> None:
    """By its name."""
    end = await ended(backend, make_pod("kill -TERM $$"))
    assert end.exit == Exit(143, "(container main) killed by signal SIGTERM")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"resources": {"memory": "much"}}, "much"),
        ({"outputs": (Mount("/out", Volume("never-made", "o")),)}, "no volume"),
        ({"outputs": (Mount("/out", Volume("../../etc", "o")),)}, "cannot be the name"),
        ({"entrypoint": ("a\0b",)}, "NUL"),
        ({"outputs": (Mount("out", Volume("pod-out", "o")),)}, "not an absolute path"),
        ({"image": "busybox:1"}, "container images are not allowed"),
    ],
)
async def test_what_can_never_run_is_rejected(
    backend: LocalBackend, make_pod: MakePod, changes: dict[str, object], reason: str
) -> None:
    """By the call itself; nothing is left of it."""
    pod = make_pod("true", **changes)
    for name in ("pod-in", "pod-out", "pod-log"):
        await backend.create_volume(Volume(name, "k"))
    with pytest.raises(BackendRejected, match=reason):
        await backend.launch(pod)
    assert await backend.run_pods() == []


@pytest.mark.parametrize(
    ("code", "kind", "said", "hint"),
    [
        (errno.E2BIG, BackendRejected, "the command line is too long", "file of an input"),
        (errno.EAGAIN, BackendUnavailable, "no process can be started", "try again"),
        (errno.ENOMEM, BackendUnavailable, "no process can be started", "memory"),
        (errno.EDOM, BackendUnavailable, "no process can be started", "ulimit -u"),
    ],
)
async def test_why_no_process_could_be_started(
    backend: LocalBackend,
    make_pod: MakePod,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    kind: type[KnitError],
    said: str,
    hint: str,
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    pod = make_pod("true")
    for name in ("pod-in", "pod-out", "pod-log"):
        await backend.create_volume(Volume(name, "k"))
    monkeypatch.setattr("knit_workflows.compute.local.supervisor.spawn_supervisor", refuse)
    with pytest.raises(kind, match=said) as caught:
        await backend.launch(pod)
    assert hint in caught.value.advice


async def test_without_bubblewrap_a_host_image_is_rejected(
    settings: LocalSettings, make_pod: MakePod, backend: LocalBackend
) -> None:
    """In words that help; so it is where host images are not allowed."""
    del backend
    for changed in (
        settings.model_copy(update={"environment": {"PATH": "/nowhere"}}),
        settings.model_copy(update={"host_images": False}),
    ):
        other = LocalBackend(changed)
        await other.open()
        with pytest.raises(BackendRejected) as caught:
            await ended(other, make_pod("true"))
        assert caught.value.advice
        await other.aclose()


# --- bad times ---------------------------------------------------------------------------------


async def test_a_pod_whose_supervisor_was_killed_is_lost(
    backend: LocalBackend, settings: LocalSettings, make_pod: MakePod
) -> None:
    """The sandbox dies with it, watchers hear of it, and it is never started again."""
    pod = make_pod("echo started >> /out/starts; sleep 60")
    ending = asyncio.create_task(ended(backend, pod))
    starts = settings.state / "volumes" / "pod-out" / "starts"
    await eventually(lambda: starts.exists() and starts.read_text() != "")
    supervisor, sandbox = sandbox_of(settings)
    os.kill(supervisor, signal.SIGKILL)
    assert (await ending).phase is Phase.ABSENT
    # All that did something is gone by then; the first process, which touches nothing, a bit later.
    await eventually(lambda: find_process(sandbox) is None)
    await backend.launch(pod)
    assert (await backend.observe("pod")).phase is Phase.ABSENT
    assert output(settings, "starts") == "started\n"


@pytest.mark.parametrize("pause", [0.0, 0.002, 0.004, 0.008, 0.012, 0.016, 0.02])
@pytest.mark.patient
async def test_a_supervisor_killed_early_leaves_nothing_running(
    backend: LocalBackend, settings: LocalSettings, make_pod: MakePod, pause: float
) -> None:
    """A sandbox that is just being set up does not yet die with its parent."""
    pod = make_pod("while :; do echo more >> /out/count; sleep 0.005; done")
    ending = asyncio.create_task(ended(backend, pod))
    async with asyncio.timeout(PATIENCE):
        while (
            reported := read_state(settings.state / "pods" / "pod") or SupervisorState()
        ) == SupervisorState():
            await asyncio.sleep(0)
    assert reported.supervisor is not None
    await asyncio.sleep(pause)
    os.kill(reported.supervisor[0], signal.SIGKILL)
    assert (await ending).phase is Phase.ABSENT
    count = settings.state / "volumes" / "pod-out" / "count"
    size = count.stat().st_size if count.exists() else 0
    await asyncio.sleep(0.1)
    assert (count.stat().st_size if count.exists() else 0) == size


async def test_a_pod_from_before_a_reboot_is_lost(
    backend: LocalBackend, settings: LocalSettings, make_pod: MakePod
) -> None:
    """Even if its numbers are those of processes that run now; they are left alone."""
    folder = settings.state / "pods" / "pod"
    stranger = await asyncio.create_subprocess_exec("sleep", "60", start_new_session=True)
    try:
        born = find_process(stranger.pid)
        assert born is not None
        pod = make_pod("true")
        await ended(backend, pod)
        text = f'started {born.pid} {born.born} other\n"child-pid": {born.pid}\nrunning\n'
        (folder / "state").write_bytes(text.encode().ljust(4096, b"\0"))
        lost = Observation(Phase.ABSENT, disruption="the machine was restarted")
        assert await backend.observe("pod") == lost
        await backend.launch(pod)
        assert await backend.observe("pod") == lost
        await backend.stop("pod", grace=timedelta())
        assert await backend.observe("pod") == Observation(Phase.ABSENT)
        assert await backend.run_pods() == []
        assert stranger.returncode is None
    finally:
        stranger.kill()
        await stranger.wait()


async def test_a_sandbox_killed_from_outside_is_an_outcome(
    backend: LocalBackend, settings: LocalSettings, make_pod: MakePod
) -> None:
    """As the kernel does it when the machine's memory runs out."""
    ending = asyncio.create_task(ended(backend, make_pod("sleep 60")))
    await until(backend, "pod", "running")
    os.kill(sandbox_of(settings)[1], signal.SIGKILL)
    assert (await ending).exit == Exit(137, "(container main) killed by signal SIGKILL")


@pytest.mark.patient
async def test_grace_ends_although_knit_is_gone(
    settings: LocalSettings, backend: LocalBackend, make_pod: MakePod
) -> None:
    """The process that stopped it exits at once."""
    ending = asyncio.create_task(ended(backend, make_pod("trap '' TERM; while :; do :; done")))
    await until(backend, "pod", "running")
    supervisor, sandbox = sandbox_of(settings)
    script = (
        "import asyncio, os, sys, pathlib, datetime\n"
        "from knit_workflows.compute.local import LocalBackend\n"
        "from knit_workflows.settings import LocalSettings\n"
        "async def main():\n"
        "    backend = LocalBackend(LocalSettings(state=pathlib.Path(sys.argv[1])))\n"
        "    await backend.open()\n"
        "    await backend.stop('pod', grace=datetime.timedelta(seconds=1))\n"
        "    os._exit(0)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", script, str(settings.state)]
    await asyncio.to_thread(subprocess.run, command, check=True)
    ending.cancel()
    await eventually(lambda: find_process(sandbox) is None)
    assert (await until(backend, "pod", "absent")).phase is Phase.ABSENT
    await eventually(lambda: find_process(supervisor) is None)


async def test_a_log_on_a_full_disk_fails_the_run(
    settings: LocalSettings, make_pod: MakePod, small_disk: Path
) -> None:
    """It ends, and says why; a full disk does not keep the end from being recorded."""
    backend = LocalBackend(settings.model_copy(update={"state": small_disk}))
    await backend.open()
    try:
        async with asyncio.timeout(PATIENCE):
            end = await ended(backend, make_pod("seq 1 2000000; echo $? >&2; exit 0"))
        assert end.phase is Phase.FAILED
        assert end.exit is not None
        assert end.exit.message.startswith("(container log) the log could not be written: ")
        assert "No space left on device" in end.exit.message
        await backend.release("pod")
    finally:
        await backend.aclose()


async def test_a_pod_can_be_stopped_on_a_full_disk(
    settings: LocalSettings, make_pod: MakePod, small_disk: Path
) -> None:
    """Its folder has room reserved for that."""
    backend = LocalBackend(settings.model_copy(update={"state": small_disk}))
    await backend.open()
    try:
        pod = make_pod("dd if=/dev/zero of=/out/fill bs=4k 2>/dev/null; echo >/dev/null; sleep 60")
        ending = asyncio.create_task(ended(backend, pod))
        await eventually(lambda: shutil.disk_usage(small_disk).free == 0)
        await backend.stop("pod", grace=timedelta())
        async with asyncio.timeout(PATIENCE):
            assert (await ending).phase is Phase.ABSENT
    finally:
        await backend.aclose()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "knit-test", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"cannot mount a small disk: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.patient
async def test_nothing_is_left_behind(
    backend: LocalBackend, settings: LocalSettings, make_pod: MakePod
) -> None:
    """No descriptors, no processes (zombies neither), no files but the volumes."""

    def children() -> list[str]:
        return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    others = children()
    await ended(backend, make_pod("true", name="first"))
    await backend.release("first")
    await eventually(lambda: children() == others)
    before = descriptors()
    names = [f"pod-{n}" for n in range(10)]
    await asyncio.gather(*(ended(backend, make_pod("sleep 0.05", name=name)) for name in names))
    for name in names:
        await backend.release(name)
    await eventually(lambda: children() == others)
    await eventually(lambda: descriptors() <= before)
    assert list((settings.state / "pods").iterdir()) == []
    await eventually(lambda: not list((settings.state / "trash").iterdir()))


async def eventually(condition: Callable[[], bool]) -> None:
    """Waits until the condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)
