#!/bin/sh
# temporalio 1.35.0 and a workflow that declares `versioning_behavior` (AUTO_UPGRADE), on a worker without a
# version: it is no harmless wish for the day on which workers get versions. The SDK says nothing when the worker is
# made; the server refuses each completion of a workflow task ("versioning behavior cannot be specified without
# deployment options being set with versioned mode"), and the workflow stays RUNNING at its first step. The same
# workflow ends at once with a worker that has a version, and without the declaration.
# Noted guess: the declaration has no effect until a worker is versioned.
# So one class cannot serve both kinds of workers, nor an exchange of one kind for the other.
# Seen with the CLI 1.5.1 (server 1.29.1). Needs python3, Go, a package index, a Go module proxy and some minutes;
# sends to the loopback address only. Fails if the behaviour has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "temporalio==1.35.0"
(
    mkdir "$folder/module" && cd "$folder/module"
    go mod init example.invalid/temporal
    go get github.com/temporalio/cli/cmd/temporal@v1.5.1
    go build -o "$folder/temporal" github.com/temporalio/cli/cmd/temporal
) 2> "$folder/log" || { cat "$folder/log"; exit 1; }
cat > "$folder/declared.py" <<'PYTHON'
import asyncio
import os
import sys

from temporalio import workflow
from temporalio.common import VersioningBehavior
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

WITHIN = 5


@workflow.defn
class Silent:
    @workflow.run
    async def run(self) -> str:
        return "ended"


@workflow.defn(versioning_behavior=VersioningBehavior.AUTO_UPGRADE)
class Declared:
    @workflow.run
    async def run(self) -> str:
        return "ended"


async def main():
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=sys.argv[1], dev_server_extra_args=["--log-level", "never"]
    ) as server:
        client, found = server.client, {}
        runner = UnsandboxedWorkflowRunner()
        async with Worker(client, task_queue="q", workflows=[Silent, Declared], workflow_runner=runner):
            for kind in (Silent, Declared):
                handle = await client.start_workflow(kind.run, id=kind.__name__, task_queue="q")
                try:
                    found[kind] = await asyncio.wait_for(handle.result(), WITHIN)
                except TimeoutError:
                    found[kind] = (await handle.describe()).status.name
                print(f"worker without a version, {kind.__name__}: {found[kind]} after {WITHIN} s at most")
    assert found == {Silent: "ended", Declared: "RUNNING"}, "it has changed"


asyncio.run(main())
sys.stdout.flush()
os._exit(0)
PYTHON
"$folder/temporal" --version
"$folder/venv/bin/python" "$folder/declared.py" "$folder/temporal" > "$folder/seen" 2> "$folder/said"
cat "$folder/seen" | grep "without a version"
grep -m1 -o "versioning behavior cannot be specified without deployment options[^\"]*" "$folder/said"
