"""An oracle: what Runs there must be is computed here, from the rules alone, and then asked for.

Nothing of knit is used but its HTTP interface. Sixteen writers push Data, tag them and register
Plans, all at once; whatever the order, in the end there is one Run for each combination of Data
that a Plan's inputs mean, the Data that Runs have made included, and no other.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import random
import tarfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx

DATA: Final = 40
WRITERS: Final = 16
ARCHIVE: Final = "application/x-tar"
PULLED: Final = 12
"""How many of the Data that Runs have made are looked into."""
WITHIN: Final = 900.0
"""Seconds for everything to happen on a crowded machine; never a measurement."""

_COLOURS: Final = ("red", "green", "blue", "yellow")
_SIZES: Final = ("small", "medium", "large")
_SHAPES: Final = ("round", "square")


@dataclass(frozen=True)
class Rule:
    """A Plan as the oracle knows it: what each input asks for, and what its output carries."""

    name: str
    inputs: tuple[frozenset[str], ...]
    output: str

    def document(self) -> dict[str, Any]:
        """Gives the Plan file; the command joins the words of its inputs behind its own name."""
        paths = [f"/in/{place}" for place in range(len(self.inputs))]
        words = " ".join(f"{path}/word" for path in paths)
        return {
            "image": "host/sh:1",
            "entrypoint": ["sh", "-c", f"{{ echo {self.name}; cat {words}; }} > /out/word"],
            "inputs": [
                {"path": path, "tags": sorted(tags)}
                for path, tags in zip(paths, self.inputs, strict=True)
            ],
            "outputs": [{"path": "/out", "tags": [self.output]}],
        }


def _rule(name: str, *inputs: str) -> Rule:
    return Rule(name, tuple(frozenset(one.split()) for one in inputs), f"of:{name}")


RULES: Final = (
    *(_rule(colour, f"colour:{colour}") for colour in _COLOURS),
    _rule("small-pairs", "colour:red size:small", "colour:blue size:small"),
    _rule("large-pairs", "colour:green size:large", "colour:yellow size:large"),
    _rule("shapes", "shape:round size:small", "shape:square size:large"),
    _rule("round", "shape:round"),
    _rule("crossed", "of:red", "of:blue"),
    _rule("twice", "of:green", "of:green"),
    _rule("third", "of:crossed"),
    _rule("back", "of:yellow", "colour:yellow"),
)

# A Data is known by the words in it: they say how it came about, and are no two times the same.
Known = dict[str, frozenset[str]]
Expected = dict[tuple[str, tuple[str, ...]], str]


def uploads(seed: int) -> Known:
    """Gives the Data to push: the word in each, and its tags."""
    dice = random.Random(seed)
    return {
        f"data-{number}\n": frozenset(
            {
                f"number:{number}",
                f"colour:{_COLOURS[number % len(_COLOURS)]}",
                f"size:{dice.choice(_SIZES)}",
                f"shape:{dice.choice(_SHAPES)}",
            }
        )
        for number in range(DATA)
    }


def expected(known: Known, rules: Sequence[Rule] = RULES) -> Expected:
    """Gives every Run there must be, as (Plan, words of its inputs), and what it makes."""
    known, runs = dict(known), Expected()
    while True:
        before = len(runs)
        for rule in rules:
            fitting = [
                [word for word, tags in known.items() if want <= tags] for want in rule.inputs
            ]
            for words in itertools.product(*fitting):
                made = f"{rule.name}\n{''.join(words)}"
                runs[rule.name, words] = made
                known[made] = frozenset({rule.output})
        if len(runs) == before:
            return runs


class Writers:
    """Does things over HTTP, some at once; whatever is refused fails."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._gate = asyncio.Semaphore(WRITERS)
        self.words: dict[str, str] = {}
        """By knit id, of what was pushed."""
        self.plans: dict[str, str] = {}
        """Names by Plan id."""

    async def write(self, known: Known, rules: Sequence[Rule], seed: int) -> None:
        """Pushes, tags and registers everything, in an order that the seed decides."""
        jobs: list[Callable[[], Awaitable[None]]] = [
            *(lambda w=word, t=tags: self._push(w, t) for word, tags in known.items()),  # type: ignore[misc]
            *(lambda r=rule: self._apply(r) for rule in rules),  # type: ignore[misc]
        ]
        random.Random(seed).shuffle(jobs)
        await asyncio.gather(*(self._gated(job) for job in jobs))

    async def _gated(self, job: Callable[[], Awaitable[None]]) -> None:
        async with self._gate:
            await job()

    async def _push(self, word: str, tags: frozenset[str]) -> None:
        """Pushes with half of the tags; the others come later."""
        first, later = sorted(tags)[::2], sorted(tags)[1::2]
        content, headers = archive(word), {"Content-Type": ARCHIVE}
        answer = await self._http.post(
            "data", params={"tag": first}, content=content, headers=headers
        )
        knit_id = str(_good(answer)["knitId"])
        self.words[knit_id] = word
        change = {
            "add": [dict(zip(("key", "value"), tag.split(":"), strict=True)) for tag in later]
        }
        _good(await self._http.put(f"data/{knit_id}", json=change))

    async def _apply(self, rule: Rule) -> None:
        answer = await self._http.post("plans", json=rule.document())
        self.plans[str(_good(answer)["planId"])] = rule.name


@dataclass(frozen=True)
class Verdict:
    """What was found: Runs by (Plan, words of its inputs), each with its outputs' knit ids."""

    runs: Mapping[tuple[str, tuple[str, ...]], str]
    twice: int
    not_done: Sequence[str]


async def ask(http: httpx.AsyncClient, writers: Writers) -> Verdict:
    """Reads all Runs, and says them in the oracle's words.

    Plan by plan: what a later answer calls an input may have been made after an earlier one. Then
    there is nothing to say yet, and such inputs are not done.
    """
    listed: list[dict[str, Any]] = []
    for plan_id in writers.plans:
        listed += _good(await http.get("runs", params={"plan": plan_id}))
    made = {run["outputs"][0]["knitId"]: run for run in listed if run["outputs"]}
    words = dict(writers.words)
    given = {one for run in made.values() for one in inputs_of(run)}
    if unknown := given - made.keys() - words.keys():
        return Verdict({}, 0, sorted(unknown))

    def word_of(knit_id: str) -> str:
        if knit_id not in words:
            words[knit_id] = f"{writers.plans[made[knit_id]['plan']['planId']]}\n" + "".join(
                word_of(one) for one in inputs_of(made[knit_id])
            )
        return words[knit_id]

    found = {
        (writers.plans[run["plan"]["planId"]], tuple(map(word_of, inputs_of(run)))): knit_id
        for knit_id, run in made.items()
    }
    return Verdict(
        found,
        len(listed) - len(found),
        [run["runId"] for run in listed if run["status"] != "done"],
    )


def inputs_of(run: Mapping[str, Any]) -> list[str]:
    """Gives the knit ids of a Run's inputs, by path."""
    return [one["knitId"] for one in sorted(run["inputs"], key=lambda one: str(one["path"]))]


async def consult(http: httpx.AsyncClient, seed: int = 8) -> int:
    """Writes everything, waits until what must exist does, and sees that it is exact.

    Gives how many Runs there were.
    """
    known, writers = uploads(seed), Writers(http)
    wanted = expected(known)
    await writers.write(known, RULES, seed)
    async with asyncio.timeout(WITHIN):
        while True:
            verdict = await ask(http, writers)
            assert verdict.runs.keys() <= wanted.keys(), verdict.runs.keys() - wanted.keys()
            if len(verdict.runs) == len(wanted) and not verdict.not_done:
                break
            await asyncio.sleep(1)
    await _settled(http, writers, verdict)
    some = random.Random(seed).sample(sorted(wanted), PULLED)
    for key in some:
        answer = await http.get(f"data/{verdict.runs[key]}", headers={"Accept": ARCHIVE})
        assert unpacked(answer.raise_for_status().content) == wanted[key]
    return len(wanted)


async def _settled(http: httpx.AsyncClient, writers: Writers, verdict: Verdict) -> None:
    """Sees that nothing is there twice, and that nothing more comes when knit is asked later."""
    await asyncio.sleep(2)
    later = await ask(http, writers)
    assert later == verdict
    assert not later.twice


def archive(word: str) -> bytes:
    """Gives an archive of one file, `word`."""
    content = word.encode()
    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            entry = tarfile.TarInfo("word")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        return buffer.getvalue()


def unpacked(content: bytes) -> str:
    """Gives the text of the file `word`."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        member = next(one for one in tar if one.isfile())
        file = tar.extractfile(member)
        assert file is not None
        return file.read().decode()


def _good(answer: httpx.Response) -> Any:
    assert answer.is_success, f"{answer.status_code} {answer.text[:500]}"
    return answer.json()
