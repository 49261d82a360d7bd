"""What flows through a site meanwhile, and what is to become of each piece of it."""

from __future__ import annotations

import asyncio
import io
import sys
import tarfile
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import httpx

from tests.chaos.campaign.site import Site

CLIENTS_PATIENCE: Final = 600.0
"""Seconds for which a client repeats its request."""
_PAUSE: Final = 0.2
_ENDING: Final = ("completing", "aborting", "done", "failed")
_COUNT: Final = "set -e; echo x >> /out/counter; echo said $(cat /in/word); "
_COPY: Final = "cat /in/word > /out/word; echo {name} >> /out/word"


@dataclass(frozen=True)
class Program:
    """One Plan: what it does, on Data with which tag, and how it is to end."""

    name: str
    script: str
    eats: str
    makes: str
    code: int = 0
    says: str = "said {word}\n"
    """The log, if the program comes to its end."""
    stopped: bool = False
    """It never ends; its Runs are stopped by a user."""

    def document(self, image: str, more: Mapping[str, object]) -> dict[str, object]:
        """Gives the Plan file."""
        return {
            "image": image,
            "entrypoint": ["sh", "-c", self.script],
            "inputs": [{"path": "/in", "tags": [self.eats]}],
            "outputs": [{"path": "/out", "tags": [self.makes]}],
            "log": {"tags": [f"log-of:{self.name}"]},
            **more,
        }

    def result(self, word: str) -> str | None:
        """Gives what is in its output afterwards; None: it says nothing there."""
        return None if self.code or self.stopped else f"{word}{self.name}\n"


def _copies(name: str, eats: str, makes: str, before: str = "", says: str = "") -> Program:
    script = _COUNT + before + _COPY.format(name=name)
    return Program(name, script, eats, makes, says="said {word}\n" + says)


_LINES: Final = 8
_SLOWLY: Final = "for i in 1 2 3 4 5 6 7 8; do echo line $i; sleep 0.2; done; "
PROGRAMS: Final = {
    program.name: program
    for program in (
        _copies("short", "work:short", "made:short"),
        _copies(
            *("long", "work:long", "made:long", _SLOWLY),
            "".join(f"line {number + 1}\n" for number in range(_LINES)),
        ),
        _copies("first", "work:chain", "step:first"),
        _copies("second", "step:first", "step:second"),
        _copies("third", "step:second", "step:third"),
        Program("fails", _COUNT + "exit 3", "work:fails", "made:fails", code=3),
        Program(
            *("endless", _COUNT + "while :; do sleep 0.3; done"),
            *("work:endless", "made:endless"),
            stopped=True,
        ),
    )
}
KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "short": ("short",),
    "long": ("long",),
    "chain": ("first", "second", "third"),
    "fails": ("fails",),
    "endless": ("endless",),
}
"""What is pushed, by the tag `work:KIND`, and the Plans that run one after the other on it."""


@dataclass
class Push:
    """One upload as its client sees it, and what the user has asked of its Run since."""

    kind: str
    word: str
    knit_id: str = ""
    keys: list[str] = field(default_factory=list)
    retries: int = 0
    """How often its Run was retried with success."""
    perhaps: int = 0
    """How often nobody knows whether it was."""
    stop: str = ""
    """`abort` or `tearoff`, once the API has agreed to it."""


@dataclass
class Workload:
    """All that has flowed through a site so far."""

    site: Site
    plans: dict[str, str] = field(default_factory=dict)
    """Plan ids by the name of the program."""
    pushes: list[Push] = field(default_factory=list)
    pulls: int = 0
    followed: list[tuple[str, str, str]] = field(default_factory=list)
    """Of each log that was followed: its Run, what came, and what its program says."""
    wrong: list[tuple[str, str]] = field(default_factory=list)
    """What clients have seen that must not be, and the Run or Data that it is about."""

    def complain(self, what: str, about: str = "") -> None:
        """Notes what must not be; and says it at once, since the rest may take long to come."""
        self.wrong.append((what, about))
        print(what, file=sys.stderr, flush=True)

    async def register(self, image: str, more: Mapping[str, object]) -> None:
        """Registers all Plans."""
        for program in PROGRAMS.values():
            answer = await self.site.http.post("/plans", json=program.document(image, more))
            assert answer.status_code == 200, answer.text
            self.plans[program.name] = answer.json()["planId"]

    async def flow(self, kinds: Sequence[str], random: Random, spread: float) -> None:
        """Carries out uploads of these kinds within so many seconds, and what follows of each."""
        clients = []
        for kind in kinds:
            push = Push(kind, f"{kind} {len(self.pushes)} {random.getrandbits(32):08x}\n")
            self.pushes.append(push)
            clients.append(self._client(push, random.uniform(0, spread), random.random()))
        for broken in await asyncio.gather(*clients, return_exceptions=True):
            if broken is not None:
                self.complain(f"a client broke: {broken!r} at {broken.__traceback__!r}")

    async def _client(self, push: Push, begins: float, chance: float) -> None:
        await asyncio.sleep(begins)
        await self._push(push)
        if PROGRAMS[KINDS[push.kind][0]].stopped:
            await self._stop(push, "abort" if chance < 0.5 else "tearoff")
        elif push.kind == "short" and chance < 0.2:
            await self._retry(push)
        elif push.kind == "long" and chance < 0.5:
            await self._follow(push)
        if chance > 0.5:
            await self._pull(push)

    # --- uploads and downloads -------------------------------------------------------------------

    async def _push(self, push: Push) -> None:
        """Repeats one request until it is through; with another key only if it has failed."""
        push.keys.append(str(uuid.uuid4()))

        async def attempt() -> bool:
            answer = await self.site.http.post(
                "/data",
                params={"tag": f"work:{push.kind}"},
                content=_slowly(_archive(push.word)),
                headers={"Content-Type": "application/x-tar", "Idempotency-Key": push.keys[-1]},
            )
            if answer.status_code == 409 and "Retry-After" not in answer.headers:
                push.keys.append(str(uuid.uuid4()))
            elif answer.status_code == 200:
                push.knit_id = answer.json()["knitId"]
            return _is_final(answer, but=409)

        await self._until(f"push of {push.word!r}", attempt)

    async def _pull(self, push: Push) -> None:
        await self.pull(push.knit_id, {"word": push.word})

    async def pull(self, knit_id: str, expected: Mapping[str, str]) -> None:
        """Downloads a Data, again until it is whole; what is whole must be right."""

        async def attempt() -> bool:
            answer = await self.site.http.get(
                f"/data/{knit_id}", headers={"Accept": "application/x-tar"}
            )
            if answer.status_code == 200:
                found = _unpacked(answer.content)
                if found != expected:
                    self.complain(f"pull of {knit_id} gave {found}, not {expected}")
            return _is_final(answer)

        self.pulls += 1
        await self._until(f"pull of {knit_id}", attempt, about=knit_id)

    # --- Runs -------------------------------------------------------------------------------------

    async def _run_of(self, push: Push) -> str:
        """Waits for the first Run on what was pushed; gives its id."""
        found: list[str] = []

        async def attempt() -> bool:
            query = {"plan": self.plans[KINDS[push.kind][0]], "knitIdInput": push.knit_id}
            answer = await self.site.http.get("/runs", params=query)
            if answer.status_code == 200:
                found.extend(run["runId"] for run in answer.json())
                return bool(found)
            return _is_final(answer)

        await self._until(f"the Run of {push.word!r}", attempt)
        return found[0] if found else ""

    async def _stop(self, push: Push, how: str) -> None:
        run_id = await self._run_of(push)

        async def attempt() -> bool:
            # It may have ended by a fault, or be stopped although the answer to that was lost.
            run = await self.site.http.get(f"/runs/{run_id}")
            if run.status_code == 200 and run.json()["status"] in _ENDING:
                return True
            # 409: it cannot be torn off before it runs.
            answer = await self.site.http.put(f"/runs/{run_id}/{how}")
            return answer.status_code != 409 and _is_final(answer)

        push.stop = how
        await self._until(f"{how} of {run_id}", attempt, about=run_id)

    async def _retry(self, push: Push) -> None:
        """Asks once, after the Run has ended."""
        run_id = await self._run_of(push)

        async def ended() -> bool:
            answer = await self.site.http.get(f"/runs/{run_id}")
            if answer.status_code == 200:
                return answer.json()["status"] in ("done", "failed")
            return _is_final(answer)

        await self._until(f"the end of {run_id}", ended)
        push.perhaps += 1
        try:
            answer = await self.site.http.put(f"/runs/{run_id}/retry")
        except httpx.TransportError:
            return
        if answer.status_code == 200:
            push.perhaps -= 1
            push.retries += 1
        elif not _is_away(answer):
            self.complain(f"retry of {run_id}: {answer.status_code} {answer.text}", run_id)

    async def _follow(self, push: Push) -> None:
        """Reads the log while it grows, and goes on behind what it has when it is cut."""
        run_id = await self._run_of(push)
        seen = b""

        async def attempt() -> bool:
            nonlocal seen
            query = {"follow": "true", "offset": str(len(seen))}
            async with self.site.http.stream("GET", f"/runs/{run_id}/log", params=query) as answer:
                if answer.status_code == 200:
                    async for chunk in answer.aiter_raw():
                        seen += chunk
                    return True
                await answer.aread()
                # 404: it has not started, or has failed before it could.
                if answer.status_code == 404 and await self._has_ended(run_id):
                    return True
                return _is_final(answer, but=404)

        await self._until(f"log of {run_id}", attempt, about=run_id)
        expected = PROGRAMS["long"].says.format(word=push.word.strip())
        self.followed.append((run_id, seen.decode(), expected))

    async def _has_ended(self, run_id: str) -> bool:
        answer = await self.site.http.get(f"/runs/{run_id}")
        return answer.status_code == 200 and answer.json()["status"] in ("done", "failed")

    # --- clients ----------------------------------------------------------------------------

    async def _until(self, what: str, attempt: Any, about: str = "") -> None:
        """Repeats a request as long as the API, or the way there, is away."""
        ends = asyncio.get_running_loop().time() + CLIENTS_PATIENCE
        last = "nothing"
        while asyncio.get_running_loop().time() < ends:
            try:
                if await attempt():
                    return
                last = "it is not so far"
            except httpx.TransportError as error:
                last = repr(error)
            except Refused as refused:
                self.complain(f"{what} is refused: {refused}", about)
                return
            await asyncio.sleep(_PAUSE)
        self.complain(f"{what} is not through after {CLIENTS_PATIENCE:g} s: {last}", about)


class Refused(Exception):
    """The API has answered what a repetition does not change."""


def _is_away(answer: httpx.Response) -> bool:
    return answer.status_code in (502, 503, 507) or (
        answer.status_code == 409 and "Retry-After" in answer.headers
    )


def _is_final(answer: httpx.Response, but: int = 0) -> bool:
    """Says whether a request is through (True) or to be repeated; raises Refused."""
    if answer.status_code in (200, 204):
        return True
    if _is_away(answer) or answer.status_code == but:
        return False
    raise Refused(f"{answer.status_code} {answer.text}")


def _archive(word: str) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo("word")
        member.size = len(word)
        tar.addfile(member, io.BytesIO(word.encode()))
    return archive.getvalue()


async def _slowly(whole: bytes) -> AsyncIterator[bytes]:
    yield whole[:700]
    await asyncio.sleep(0.05)
    yield whole[700:]


def _unpacked(archive: bytes) -> dict[str, str] | str:
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            files = {one.name.removeprefix("./"): tar.extractfile(one) for one in tar}
            return {name: file.read().decode() for name, file in files.items() if file is not None}
    except tarfile.TarError as error:
        return f"no archive: {error!r}, {len(archive)} bytes"
