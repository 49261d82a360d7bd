"""The campaign sees what it looks for: all as it must be, and one thing wrong at a time."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

from tests.chaos.campaign.faults import Fault, Kind, carried_out, drawn
from tests.chaos.campaign.invariants import Found, Ledger, check
from tests.chaos.campaign.parts import PostgresPart
from tests.chaos.campaign.site import Site
from tests.chaos.campaign.work import PROGRAMS, Push, Workload


class _NoHooks:
    calls_hooks = False


class Scene:
    """One push of the kind `chain`, carried through three Runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = Workload(cast(Site, _NoHooks()))
        self.work.plans = {name: f"plan-{name}" for name in PROGRAMS}
        self.ledger = Ledger()
        self.runs: list[dict[str, Any]] = []
        self.data: list[dict[str, Any]] = []
        self._run("upload", None, "#uploaded", [])
        self._made("pushed", "upload", {"word": "hello\n"})
        self.work.pushes.append(Push("chain", "hello\n", knit_id="pushed"))
        knit_id, word = "pushed", "hello\n"
        for name in ("first", "second", "third"):
            self._run(f"run-{name}", f"plan-{name}", None, [knit_id])
            says = PROGRAMS[name].says.format(word=word.replace("\n", " ").strip())
            word += f"{name}\n"
            knit_id = f"made-{name}"
            self._made(knit_id, f"run-{name}", {"word": word, "counter": "x\n"})
            self._made(f"log-{name}", f"run-{name}", {"log": says}, is_log=True)

    def _run(self, run_id: str, plan_id: str | None, name: str | None, inputs: list[str]) -> None:
        self.runs.append(
            {
                "run_id": run_id,
                "plan_id": plan_id or "plan-upload",
                "generation": 1,
                "status": "done",
                "exit_code": 0,
                "exit_message": "",
                "name": name,
                "inputs": inputs,
            }
        )

    def _made(
        self, knit_id: str, run_id: str, files: dict[str, str], *, is_log: bool = False
    ) -> None:
        one = {"knit_id": knit_id, "run_id": run_id, "volume": knit_id, "is_log": is_log}
        self.data.append({**one, "status": "done"})
        (self.folder / knit_id).mkdir()
        for name, text in files.items():
            (self.folder / knit_id / name).write_text(text)

    def run(self, name: str) -> dict[str, Any]:
        """Gives the Run of a program."""
        return next(one for one in self.runs if one["run_id"] == f"run-{name}")

    async def violations(self) -> list[str]:
        """Looks at everything, as after a batch."""
        volumes = {path.name: path for path in self.folder.iterdir()}
        found = Found(self.runs, self.data, volumes)
        return await check(self.work.site, self.work, self.ledger, found)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def test_nothing_is_wrong(scene: Scene) -> None:
    """Not at the first look, nor at the second."""
    assert await scene.violations() == []
    assert await scene.violations() == []


def _wrong_status(scene: Scene) -> None:
    scene.run("third").update(status="failed", exit_code=1)


def _second_start(scene: Scene) -> None:
    (scene.folder / "made-second" / "counter").write_text("x\nx\n")


def _lost_output(scene: Scene) -> None:
    (scene.folder / "made-third" / "word").write_text("hello\n")


def _cut_log(scene: Scene) -> None:
    (scene.folder / "log-first" / "log").write_text("sai")


def _lost_run(scene: Scene) -> None:
    scene.runs.remove(scene.run("third"))


def _extra_edge(scene: Scene) -> None:
    scene.run("third")["inputs"] = ["made-second", "pushed"]


def _second_upload(scene: Scene) -> None:
    scene._run("again", None, "#uploaded", [])
    scene._made("unknown", "again", {"word": "hello\n"})


def _failed_upload(scene: Scene) -> None:
    scene.runs[0]["status"] = scene.data[0]["status"] = "failed"


def _lost_volume(scene: Scene) -> None:
    shutil.rmtree(scene.folder / "pushed")


def _unasked_generation(scene: Scene) -> None:
    scene.run("third")["generation"] = 2


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_wrong_status, "is failed (1, ), not done"),
        (_second_start, "was started 2 times"),
        (_lost_output, "has made 'hello\\n'"),
        (_cut_log, "has said 'sai'"),
        (_lost_run, "0 Runs of third"),
        (_extra_edge, "extra edge third <- pushed"),
        (_second_upload, "Data that nobody has pushed: ['unknown']"),
        (_failed_upload, "pushed Data pushed is not done"),
        (_lost_volume, "Data pushed is done and has no volume"),
        (_unasked_generation, "is in generation 2"),
    ],
)
async def test_one_thing_is_wrong(scene: Scene, spoil: Callable[[Scene], None], words: str) -> None:
    """It is said, with what it is about."""
    spoil(scene)
    assert any(words in one for one in await scene.violations())


async def test_data_that_change_after_they_are_done(scene: Scene) -> None:
    """The first look remembers; also what an upload has made, which no program has written."""
    assert await scene.violations() == []
    (scene.folder / "pushed" / "more").write_text("")
    assert await scene.violations() == ["Data pushed was changed after it was done"]


async def test_what_was_disturbed_may_fail_but_is_whole_if_it_is_done(scene: Scene) -> None:
    """Neither a killed pod nor a full disk makes a Run done without what it has to make."""
    scene.ledger.disturbed["run-third"] = "deleted by hand"
    scene.run("third").update(status="failed", exit_code=254)
    assert await scene.violations() == []
    scene.run("third").update(status="done", exit_code=0)
    assert await scene.violations() == []
    (scene.folder / "made-third" / "word").write_text("hello\n")
    assert any("has made 'hello\\n'" in one for one in await scene.violations())


@pytest.mark.parametrize("running", [True, False])
async def test_a_deleted_claim_excuses_what_it_takes_away(scene: Scene, running: bool) -> None:
    """Not a Run that is done although its output was deleted before its program had ended."""
    scene.ledger.disturbed["run-second"] = "deleted by hand"
    scene.ledger.lost["made-second"] = running
    shutil.rmtree(scene.folder / "made-second")
    scene.run("third").update(status="failed", exit_code=253)
    words = "Run run-second of second is done, although its output was deleted while it was running"
    assert await scene.violations() == ([words] if running else [])
    scene.run("second").update(status="failed", exit_code=254)
    scene.runs.remove(scene.run("third"))
    assert await scene.violations() == []


async def test_only_what_a_fault_has_hit_may_be_refused(scene: Scene) -> None:
    """A client asks for two Data, of which an operator has deleted one."""
    scene.ledger.lost["made-third"] = False
    scene.work.complain("pull of made-third is refused", "made-third")
    scene.work.complain("pull of pushed is refused", "pushed")
    assert await scene.violations() == ["pull of pushed is refused"]


def test_a_seed_draws_the_same_faults_again() -> None:
    """In the order in which they begin."""

    async def nothing(_: object) -> str:
        return ""

    kinds = [Kind(name, ["a", "b", "c"], 2.0, 1, nothing) for name in ("x", "y")]
    first = drawn(kinds, Random("7:3"), 10, 3.0)
    assert first == drawn(kinds, Random("7:3"), 10, 3.0)
    assert first != drawn(kinds, Random("7:4"), 10, 3.0)
    assert [one.at for one in first] == sorted(one.at for one in first)


async def test_kinds_of_one_name_differ_by_what_they_hit() -> None:
    """Jobs and claims are both deleted by hand, with other consequences."""

    async def job(_: object) -> str:
        return "a Job"

    async def claim(_: object) -> str:
        return "a claim"

    kinds = [
        Kind("deleted", ["Pod", "Job"], 0.1, 1, job),
        Kind("deleted", ["claim"], 0.1, 1, claim),
    ]
    for target, hit in (("Job", "a Job"), ("claim", "a claim")):
        assert (await carried_out(Fault("deleted", target, 0.0, 0.0), kinds))["hit"] == hit


def test_a_backend_is_never_the_server_itself() -> None:
    """Nobody would start it again; its command has the folder in it, which is named after knit."""

    class Process:
        def __init__(self, *words: str) -> None:
            self.words = list(words)

        def cmdline(self) -> list[str]:
            return self.words

    server = Process("/bin/postgres", "-D", "/tmp/knit-e2e/pg")
    backend, other = (
        Process("postgres: postgres knit [local] idle"),
        Process("postgres: walwriter "),
    )

    class Server:
        def __init__(self, *processes: Process) -> None:
            self.all = processes

        def processes(self) -> tuple[Process, ...]:
            return self.all

    assert PostgresPart(cast(Any, Server(server, backend, other))).backends() == [backend]
    assert PostgresPart(cast(Any, Server(server))).backends() == []
