"""Whatever of an embedded stack is ended or killed: nothing is lost, and nothing happens twice."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from knit_cli.dev.dev_folder import DevFolder
from tests.contract.compute.local_adapters import need_bubblewrap
from tests.e2e.stack import WITHIN, DevStack, command, dev_folder, dev_stack, shell_plan, until

pytestmark = [pytest.mark.timeout(900), pytest.mark.engine, pytest.mark.slow]

GATED = "echo x >> /out/counter; until [ -e /out/go ]; do sleep 0.05; done; echo end > /out/end"
"""Counts its own starts, then waits for the test."""
AT_ONCE = 3
"""Runs under way at once; the others wait as rows."""


@pytest.fixture(scope="module")
def stack() -> Iterator[DevStack]:
    """One stack, which every test finds up and leaves up."""
    need_bubblewrap()
    # What an unlucky heartbeat costs is not the question here.
    quick = {"KNIT_ENGINE__HEARTBEAT": "PT2S", "KNIT_ENGINE__PROJECTOR_HEARTBEAT": "PT2S"}
    with dev_stack(**quick, KNIT_ENGINE__MAX_ACTIVE_RUNS=str(AT_ONCE)) as one:
        one.up()
        yield one


@pytest.fixture
def own() -> Iterator[DevStack]:
    """A stack of the test's own, not up."""
    with dev_stack() as one:
        yield one
        one.down()
        assert one.processes() == []


# --- Runs in the middle -------------------------------------------------------------------------


class Runs:
    """Runs of one gated Plan; the test lets each of them go on by hand."""

    def __init__(self, stack: DevStack, tag: str, count: int) -> None:
        self.stack = stack
        self.count = count
        self.plan = stack.apply(shell_plan(GATED, tag))
        for number in range(count):
            stack.push(str(number), tag)
        started = min(count, AT_ONCE)
        until(lambda: len(self.statuses("running")) == started and len(self.counters()) == started)

    def statuses(self, *wanted: str) -> list[str]:
        """The ids of the Runs in these statuses."""
        return [run["runId"] for run in self.stack.runs(self.plan) if run["status"] in wanted]

    def counters(self) -> list[Path]:
        """The counters of the tasks that have been started and wait still."""
        found = (self.stack.state / "compute" / "volumes").glob("*/counter")
        return [counter for counter in found if not (counter.parent / "go").exists()]

    def let_go(self) -> None:
        """Lets every task end that waits."""
        for counter in self.counters():
            (counter.parent / "go").touch()

    def finish(self) -> None:
        """Lets all go on, in turn; sees that each has run exactly once and whole."""

        def all_final() -> bool:
            self.let_go()
            return len(self.statuses("done", "failed")) == self.count

        until(all_final)
        runs = self.stack.runs(self.plan)
        assert [run["status"] for run in runs] == ["done"] * self.count
        for run in runs:
            files = self.stack.pulled(run["outputs"][0]["knitId"])
            assert files == {"counter": "x\n", "go": "", "end": "end\n"}
        assert len({run["inputs"][0]["knitId"] for run in runs}) == self.count


def pid_of(stack: DevStack, name: str) -> int:
    """The process id of one of the stack's processes."""
    status = stack.ready()
    return int(status["supervisor"] if name == "supervisor" else status["processes"][name])


def kill(pid: int) -> None:
    """kill -9, and wait until it is gone."""
    process = psutil.Process(pid)
    process.kill()
    until(lambda: gone(process))


def gone(process: psutil.Process) -> bool:
    """Says whether a process has ended; it may do so while it is looked at."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def words_of(process: psutil.Process) -> list[str]:
    """The name of a process and its command line; nothing of one that has just ended."""
    with suppress(psutil.Error):
        return [process.name(), *process.cmdline()]
    return []


def test_down_in_the_middle_of_runs_and_up_again(stack: DevStack) -> None:
    """Tasks outlive knit: one ends while it is down and is found so, the others go on; those that

    had to wait are started afterwards. Addresses stay; while it is down nothing of it is left.
    """
    runs = Runs(stack, "chaos:down", AT_ONCE + 2)
    before = stack.status()
    stack.down()
    tasks = [process for process in stack.processes() if "postgres" in words_of(process)]
    assert tasks == []
    assert stack.status() == {"running": False}
    first = runs.counters()[0].parent
    (first / "go").touch()
    until(lambda: (first / "end").exists())
    stack.up()
    after = stack.ready()
    assert {key: after[key] for key in ("api", "temporal", "webUi")} == {
        key: before[key] for key in ("api", "temporal", "webUi")
    }
    runs.finish()


@pytest.mark.parametrize("name", ["worker", "worker-interactive", "api", "temporal", "postgres"])
def test_a_killed_process_is_started_again(stack: DevStack, name: str) -> None:
    """kill -9 in the middle of Runs: it comes back by itself, and the Runs go on."""
    runs = Runs(stack, f"chaos:{name}", 2)
    before = stack.ready()
    kill(before["processes"][name])

    def another() -> bool:
        record = DevFolder(stack.state).running()
        return (
            record is not None
            and record.ready
            and record.processes[name].pid != before["processes"][name]
        )

    until(another)
    after = stack.status()
    unharmed = set(before["processes"]) - {name}
    assert all(after["processes"][other] == before["processes"][other] for other in unharmed)
    runs.finish()


@pytest.mark.parametrize("up", [True, False], ids=["while it is up", "while it is down"])
def test_temporal_loses_its_database(stack: DevStack, up: bool) -> None:
    """In the middle of Runs, some of which wait: all end, and none of their tasks starts twice."""
    runs = Runs(stack, f"chaos:lost-{up}", AT_ONCE + 2 if up else 2)
    before = stack.ready()
    if not up:
        stack.down()
    for file in stack.state.glob("temporal.db*"):
        file.unlink()
    if up:
        kill(before["processes"]["temporal"])
    else:
        stack.up()

    def says_so() -> bool:
        log = stack.state / "logs" / "worker.log"
        return log.exists() and '"engine_recovered"' in log.read_text(errors="replace")

    until(says_so)
    runs.finish()
    # What is younger than a minute may be on its way; here everything arrives in a moment.
    verify = ("admin", "verify", "--state", stack.state, "--grace", "0")
    until(lambda: stack.knit(*verify, code=None).code == 0)


def test_a_killed_supervisor_leaves_what_up_finds(stack: DevStack) -> None:
    """Without its supervisor knit goes on, unsupervised; `up` starts all anew where it was."""
    runs = Runs(stack, "chaos:supervisor", 2)
    before = stack.ready()
    kill(before["supervisor"])
    assert stack.status() == {"running": False}
    stack.up()
    after = stack.ready()
    assert after["api"] == before["api"]
    assert not any(psutil.pid_exists(pid) for pid in before["processes"].values())
    runs.finish()


def test_all_killed_at_once_and_their_numbers_used_again(stack: DevStack) -> None:
    """The machine's worst moment short of losing its disk, and a reboot: process numbers in old

    records belong to strangers now, who are left alone.
    """
    runs = Runs(stack, "chaos:all", 2)
    status = stack.ready()
    for pid in (status["supervisor"], *status["processes"].values()):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not any("postgres" in words_of(process) for process in stack.processes()))
    with subprocess.Popen(["sleep", "600"]) as stranger:
        try:
            give_numbers(stack, stranger.pid)
            assert "not running here" in stack.knit("dev", "down").err
            stack.up()
            assert stranger.poll() is None
        finally:
            stranger.kill()
    runs.finish()


def give_numbers(stack: DevStack, pid: int) -> None:
    """Writes this number wherever the stack has kept the number of a process."""
    pid_file = stack.state / "postgres" / "postmaster.pid"
    _, _, rest = pid_file.read_text().partition("\n")
    pid_file.write_text(f"{pid}\n{rest}")
    record = json.loads((stack.state / "state.json").read_text())
    for mark in (record["supervisor"], *record["processes"].values()):
        mark["pid"] = pid
    (stack.state / "state.json").write_text(json.dumps(record))


def test_up_right_after_down_waits_for_the_end(stack: DevStack) -> None:
    """A stack that is ending is not taken for one that runs."""
    before = stack.ready()
    with stack.start("dev", "down") as ending:
        until(lambda: not ((record := DevFolder(stack.state).load()) and record.ready))
        stack.up()
        assert ending.wait(WITHIN) in (0, 1)  # 1: it says that knit is being started again
    assert stack.ready()["supervisor"] != before["supervisor"]


def test_a_server_whose_orphan_hangs_is_started_again(stack: DevStack) -> None:
    """An orphan that cannot notice its server's death holds the shared memory: it is killed."""
    status = stack.ready()
    postgres = psutil.Process(status["processes"]["postgres"])
    orphan = postgres.children()[0]
    orphan.suspend()
    kill(postgres.pid)
    until(lambda: "postgres" in started_so_far(stack, but=postgres.pid))
    stack.ready()
    assert gone(orphan)
    assert stack.knit("plan", "find").json()


# --- half dead ----------------------------------------------------------------------------------


def test_down_ends_what_a_killed_supervisor_has_left(own: DevStack) -> None:
    """Also when others are dead, and the record of the processes is lost."""
    own.up()
    for pid in [pid_of(own, name) for name in ("supervisor", "worker", "postgres")]:
        kill(pid)
    (own.state / "state.json").unlink()
    assert own.processes()
    own.down()
    assert own.processes() == []
    assert "not running here" in own.knit("dev", "down").err


def started_so_far(stack: DevStack, but: int = 0) -> set[str]:
    """Names of the processes in the record, besides one."""
    record = DevFolder(stack.state).load()
    marks = record.processes.items() if record is not None else ()
    return {name for name, mark in marks if mark.pid != but}


STAGES: tuple[Callable[[DevStack], bool], ...] = (
    # While the database is made; or right after it, for who looks too late.
    lambda stack: any(stack.state.glob("postgres.*")) or "postgres" in started_so_far(stack),
    lambda stack: "postgres" in started_so_far(stack),
    lambda stack: "worker" in started_so_far(stack),
)


def test_a_supervisor_killed_during_its_start_is_no_obstacle(own: DevStack) -> None:
    """Wherever it was: the `up` that waits for it says so and ends; the next one finds its way."""
    for stage in STAGES:
        (own.state / "state.json").unlink(missing_ok=True)
        with own.start("dev", "up", "--detach") as waiting:
            until(lambda stage=stage: stage(own))  # type: ignore[misc]
            record = json.loads((own.state / "state.json").read_text())
            kill(record["supervisor"]["pid"])
            left = DevFolder(own.state).load()
            ended = waiting.wait(WITHIN)
            # On a loaded machine the start may have come to its end before it was disturbed.
            assert ended == 1 or (left is not None and left.ready)
    own.up()
    assert own.knit("plan", "find").json()


def test_down_in_the_middle_of_a_start(own: DevStack) -> None:
    """It ends what is being started; the `up` that waited for it says that it was ended."""
    with own.start("dev", "up", "--detach") as waiting:
        until(lambda: "temporal" in started_so_far(own))
        own.down()
        waiting.wait(WITHIN)
        # It may have begun anew, if it looked in the very moment between two supervisors.
    if own.status()["running"]:
        own.down()
    assert own.processes() == []


# --- two at once, ports, folders ----------------------------------------------------------------


def test_two_ups_at_once_make_one_stack_and_many_signals_one_end(own: DevStack) -> None:
    """Both show the same, there is one supervisor; several signals do not disturb its end."""
    with own.start("dev", "up", "-d") as one, own.start("dev", "up", "-d") as other:
        for process in (one, other):
            shown, _ = process.communicate(timeout=WITHIN)
            assert process.returncode == 0, shown
            assert own.status()["api"].encode() in shown
    (supervisor,) = [p for p in own.processes() if "knit_cli.dev" in words_of(p)]
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        with suppress(psutil.NoSuchProcess):
            supervisor.send_signal(number)
    until(lambda: not own.processes())


@contextmanager
def taken(port: int) -> Iterator[None]:
    """Listens on a port, as soon as whoever is being killed has let go of it."""
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

        def bound() -> bool:
            with suppress(OSError):
                stranger.bind(("127.0.0.1", port))
                return True
            return False

        until(bound)
        stranger.listen()
        yield


def port_of(status: dict[str, Any], name: str) -> int:
    """The port of an address in the status."""
    return int(status[name].removesuffix("/api").rpartition(":")[2])


def test_ports_taken_meanwhile(own: DevStack) -> None:
    """In the moment of a restart: waited for. Between two starts: others are found, and the

    profile follows. Chosen by the user: said.
    """
    own.up()
    before = own.status()
    supervisor = psutil.Process(before["supervisor"])
    supervisor.suspend()  # or it might be quicker than we
    os.kill(before["processes"]["api"], signal.SIGKILL)
    with taken(port_of(before, "api")):
        supervisor.resume()
        log = own.state / "logs" / "supervisor.log"
        until(
            lambda: (
                log.read_text().count('"process_died"') >= 2
                and "address already in use" in log.read_text()
            )
        )
        assert "address already in use" in log.read_text()
        assert not own.status()["ready"]
    assert own.ready()["api"] == before["api"]
    own.down()
    with taken(port_of(before, "api")), taken(port_of(before, "webUi")):
        for flag, name in (("--api-port", "api"), ("--web-port", "webUi")):
            port = str(port_of(before, name))
            said = own.knit("dev", "up", "--detach", flag, port, code=1)
            assert f"{flag} {port}" in said.err
            assert "hint: " in said.err
        assert own.processes() == []
        own.up()
        after = own.status()
        assert after["api"] != before["api"]
        assert after["webUi"] != before["webUi"]
        assert after["temporal"] == before["temporal"]
        assert own.knit("plan", "find").json()


def test_a_state_folder_that_cannot_be_used(tmp_path: Path) -> None:
    """A file in its place, a folder without the right to write: an error with place and advice."""
    stack = DevStack(tmp_path)
    (tmp_path / "file").write_text("")
    locked = tmp_path / "locked"
    locked.mkdir(0o555)
    (tmp_path / "half").mkdir()
    for name in ("logs", "compute"):
        (tmp_path / "half" / name).mkdir()
    (tmp_path / "half").chmod(0o555)
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("root writes everywhere, and there is no setpriv to take that away")
    root = os.geteuid() == 0
    under = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if root else ()
    for place in ("file", "file/below", "locked/below", "half"):
        for more in (("--detach",), ()):
            said = stack.knit("dev", "up", *more, "--state", place, under=under, code=1)
            assert f"{tmp_path}/{place.split('/')[0]}" in said.err
            assert "--state" in said.err
            assert "Traceback" not in said.err
    assert stack.processes() == []
    for command_ in ("status", "down"):
        stack.knit("dev", command_, "--state", "nowhere", code=None)
    assert not (tmp_path / "nowhere").exists()


# --- in a terminal ------------------------------------------------------------------------------


@contextmanager
def terminal(stack: DevStack) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`knit dev up` in a terminal of its own; gives the process and the terminal's other side."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command("dev", "up"),
        cwd=stack.folder, env=stack.environ() | {"TERM": "xterm"},
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(slave)
    try:
        yield process, master
    finally:
        with suppress(OSError):
            os.close(master)
        process.wait(WITHIN)


def read_until(master: int, word: bytes) -> bytes:
    """Reads what is shown until a word comes."""
    seen, ends = b"", time.monotonic() + WITHIN
    while word not in seen:
        assert time.monotonic() < ends, seen[-2000:]
        if select.select([master], [], [], 1)[0]:
            seen += os.read(master, 65536)
    return seen


def test_ctrl_c_ends_the_stack_in_order(own: DevStack) -> None:
    """The live picture says when it is ready; Ctrl-C ends all, with exit code 0."""
    with terminal(own) as (process, master):
        read_until(master, b"knit is \x1b[32mready")
        assert own.knit("plan", "find").json()
        said = own.knit("dev", "up")
        assert "already running" in said.err
        os.write(master, b"\x03")
        while True:
            try:
                if not os.read(master, 65536):
                    break
            except OSError:
                break
        assert process.wait(WITHIN) == 0
    assert own.processes() == []


def test_a_closed_terminal_ends_the_stack_in_order(own: DevStack) -> None:
    """SIGHUP, and nowhere to write to: still every process is ended."""
    with terminal(own) as (process, master):
        read_until(master, b"knit is \x1b[32mready")
        os.close(master)
        process.wait(WITHIN)
    assert own.processes() == []


# --- surroundings -------------------------------------------------------------------------------


def test_the_users_folder_and_variables_do_not_get_in_the_way() -> None:
    """Files named like modules, another Temporal's settings, a proxy, blanks in the path."""
    with dev_folder() as folder:
        place = folder / "a folder's name — with blanks"
        others = {
            "TEMPORAL_TLS": "true",
            "TEMPORAL_ADDRESS": "elsewhere:1",
            "TEMPORAL_API_KEY": "x",
        }
        with dev_stack(place, **others) as stack:
            for name in ("yaml.py", "psutil.py", "queue.py", "knit_api.py"):
                (place / name).write_text("raise SystemExit('the wrong module')")
            stack.knit("dev", "up", "--detach")
            plan = stack.apply(shell_plan("cat /in/word > /out/word", "odd:place"))
            stack.push("x", "odd:place")
            assert stack.run_in(plan, "done", "failed")["status"] == "done"
            stack.down()
            assert stack.processes() == []
