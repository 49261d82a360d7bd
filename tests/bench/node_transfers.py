"""Pushes and pulls on the real node: of a tiny file, and of much beside `kubectl exec … tar`."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from knit_workflows.settings import KubernetesSettings
from tests.api.archives import tar_of
from tests.bench.cluster import on_the_node
from tests.bench.figures import figure, percentile
from tests.bench.transfers import DISK, LINES, MIB, Installation, serving

TINY = tar_of({"file": b"tiny"})
TAR = {"Content-Type": "application/x-tar", "Accept": "application/x-tar"}


@asynccontextmanager
async def _installed(
    warm: int, **engine: str
) -> AsyncIterator[tuple[Installation, KubernetesSettings, str]]:
    more = {"KNIT_COMPUTE__KUBERNETES__WARM_TRANSFERS": str(warm)}
    more |= {f"KNIT_ENGINE__{name.upper()}": value for name, value in engine.items()}
    with tempfile.TemporaryDirectory(prefix="knit-bench-", dir=DISK) as folder:
        async with (
            on_the_node(more) as bench,
            serving(bench.knit, Path(folder)) as knit,
        ):
            yield knit, bench.by_hand.settings, bench.image


async def tiny(samples: int) -> None:
    """Pushes one after another, with a pause in which a volume is replaced, then pulls."""
    for warm in (0, 2):
        pushed, pulled = [], []
        async with _installed(warm) as (knit, _, _):
            await asyncio.sleep(5 if warm else 0)
            async with httpx.AsyncClient(trust_env=False, timeout=120) as http:
                for _ in range(samples):
                    begun = time.perf_counter()
                    answer = await http.post(f"{knit.root}/data", content=TINY, headers=TAR)
                    pushed.append(time.perf_counter() - begun)
                    data = f"{knit.root}/data/{answer.raise_for_status().json()['knitId']}"
                    begun = time.perf_counter()
                    (await http.get(data, headers=TAR)).raise_for_status()
                    pulled.append(time.perf_counter() - begun)
        kept = f"with {warm} volumes kept waiting"
        for verb, took in (("push", pushed), ("pull", pulled)):
            figure(
                f"{verb} of a tiny file on the node, {kept}, p50",
                percentile(took, 0.5),
                "s",
                "<= 1.2" if warm and verb == "push" else "",
                p90=round(percentile(took, 0.9), 3),
                samples=samples,
            )


async def in_a_row(count: int) -> None:
    """Pulls one tiny Data again and again: with a pod each, and with one for all.

    By the command, which takes a while to start, and over HTTP.
    """
    for linger, how in (("PT0S", "a pod each"), ("PT15S", "one pod")):
        by_command, by_http = [], []
        async with (
            _installed(0, transfer_linger=linger) as (knit, _, _),
            httpx.AsyncClient(trust_env=False, timeout=120) as http,
        ):
            answer = await http.post(f"{knit.root}/data", content=TINY, headers=TAR)
            knit_id = answer.raise_for_status().json()["knitId"]
            for number in range(count):
                to = knit.folder / str(number)
                by_command.append((await knit.knit("data", "pull", "-x", knit_id, to))[0].seconds)
            for _ in range(count):
                begun = time.perf_counter()
                (await http.get(f"{knit.root}/data/{knit_id}", headers=TAR)).raise_for_status()
                by_http.append(time.perf_counter() - begun)
        for way, took in (("by command", by_command), ("over HTTP", by_http)):
            figure(
                f"pulls of one tiny Data in a row, {way}, {how}, p50 from the second on",
                percentile(took[1:], 0.5),
                "s",
                "",
                first=round(took[0], 2),
                second=round(took[1], 2),
                last=round(took[-1], 2),
                pulls=count,
            )


@dataclass(frozen=True)
class Content:
    """One file of so many MiB; `block` gives each of them."""

    name: str
    block: Callable[[], bytes]

    def write(self, folder: Path, mib: int) -> Path:
        """Makes it in a folder of its own."""
        folder.mkdir()
        with (folder / "file").open("wb") as file:
            for _ in range(mib):
                file.write(self.block())
        return folder


CONTENTS = (
    Content("incompressible", lambda: os.urandom(MIB)),
    Content("lines of text", lambda: (LINES * 2)[:MIB]),
)


async def large(mib: int, contents: Sequence[Content] = CONTENTS) -> None:
    """The command, beside `kubectl exec … tar` with a pod that is up, at a claim of that class.

    Beside the node's disk too: what `dd` writes through to it, in that claim.
    """
    async with _installed(1) as (knit, settings, image):
        pod = await _pod_with_claim(settings, image)
        kubectl = f"kubectl --kubeconfig={settings.kubeconfig} -n {settings.kube_namespace}"
        for content in contents:
            source = content.write(knit.folder / content.name.replace(" ", "-"), mib)
            in_pod = f"{kubectl} exec -i {pod} --"
            disk = (
                f"{in_pod} dd if=/dev/zero of=/data/disk bs=1M count={mib} conv=fsync status=none"
            )
            begun = time.perf_counter()
            await _shell(disk)
            figure(
                f"the node's disk, written through, {mib} MiB",
                mib / (time.perf_counter() - begun),
                "MiB/s",
                "pushes and pulls: >= 0.5 x this",
            )
            await _shell(f"{in_pod} rm /data/disk")
            await _moved(knit, source, mib, in_pod, content.name)
            await _shell(f"rm -r {source}")


async def _moved(knit: Installation, source: Path, mib: int, in_pod: str, name: str) -> None:
    got = knit.folder / "got"
    knit_id = ""

    async def push() -> None:
        nonlocal knit_id
        _, printed = await knit.knit("data", "push", source)
        knit_id = json.loads(printed)["knitId"]

    async def pull(*words: str) -> None:
        await knit.knit("data", "pull", *words, knit_id, got)

    stored = f"tar cf - -C {source} . | {in_pod} sh -c 'rm -rf /data/*; tar xf - -C /data; sync'"
    fetched = f"{in_pod} tar cf - -C /data . | tar xf - -C {got}"
    packed = f"{in_pod} tar cf - -C /data . | gzip -1 > {got}/got.tar.gz"
    await _beside(f"push of {name}", mib, push, stored, got)
    await _beside(f"pull -x of {name}", mib, lambda: pull("-x"), fetched, got)
    await _beside(f"pull as tar.gz of {name}", mib, pull, packed, got)


async def _beside(
    name: str, mib: int, ours: Callable[[], Awaitable[None]], theirs: str, got: Path
) -> None:
    times = []
    for move in (lambda: _shell(theirs), ours):
        await _shell(f"mkdir {got}")
        begun = time.perf_counter()
        await move()
        times.append(time.perf_counter() - begun)
        await _shell(f"rm -r {got}")
    baseline, took = times
    figure(
        f"{name} on the node, {mib} MiB",
        mib / took,
        "MiB/s",
        ">= 0.8 x the baseline",
        baseline=round(mib / baseline, 1),
        ratio=round(baseline / took, 2),
        baseline_is="kubectl exec … tar, in the same way",
    )


async def _shell(script: str) -> None:
    await asyncio.to_thread(subprocess.run, ["bash", "-euo", "pipefail", "-c", script], check=True)


async def _pod_with_claim(settings: KubernetesSettings, image: str) -> str:
    """Makes a claim and a pod at it that waits; gives its name once it is ready."""
    name = f"beside-{uuid.uuid4().hex[:8]}"
    about = {"name": name, "namespace": settings.kube_namespace}
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": about,
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": settings.initial_capacity}},
        },
    }
    container = {
        "name": "main",
        "image": image,
        "command": ["sleep", "3600"],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": name}}
    spec = {
        "containers": [container],
        "volumes": [volume],
        "terminationGracePeriodSeconds": 1,
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": spec}
    both = json.dumps({"apiVersion": "v1", "kind": "List", "items": [claim, pod]})
    kubectl = ["kubectl", f"--kubeconfig={settings.kubeconfig}", "-n", settings.kube_namespace]
    apply = [*kubectl, "apply", "-f", "-"]
    wait = [*kubectl, "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s"]
    for command, given in ((apply, both), (wait, "")):
        await asyncio.to_thread(
            subprocess.run, command, input=given, text=True, check=True, stdout=subprocess.DEVNULL
        )
    return name
