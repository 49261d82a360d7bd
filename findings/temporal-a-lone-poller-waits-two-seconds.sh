#!/bin/sh
# Temporal 1.29.1 and a task queue with one poller, which asks again when it has done what it got (a script that
# plays a worker, or a worker with one slot): of 200 activities, each with its workflow task, all on an idle
# server, most rounds take some 20 ms and from one to five in a hundred take two seconds. The task queue's four partitions
# are the reason, with the matcher that is this version's default: with one partition, or with
# matching.useNewMatcher=true (the default of later versions), no round does.
# So a time-out, a probe or a bench of such a queue should expect two seconds, or use the new matcher.
# Seen with the CLI 1.5.1 (server 1.29.1) and temporalio 1.35.0. Needs python3, Go, a package index, a Go module
# proxy and some minutes; sends to the loopback address only. Fails if the behaviour has changed.
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
cat > "$folder/lone.py" <<'PYTHON'
import asyncio
import statistics
import sys
import time

from google.protobuf.duration_pb2 import Duration
from temporalio.api.command.v1 import Command, ScheduleActivityTaskCommandAttributes
from temporalio.api.common.v1 import ActivityType, WorkflowType
from temporalio.api.enums.v1 import CommandType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice import v1 as api
from temporalio.testing import WorkflowEnvironment

ROUNDS = 200
SETTINGS = {
    "defaults": [],
    "one partition": ["matching.numTaskqueueReadPartitions=1", "matching.numTaskqueueWritePartitions=1"],
    "new matcher": ["matching.useNewMatcher=true"],
}


async def slow_rounds(service, namespace):
    common = {"namespace": namespace, "identity": "lone"}
    queue = TaskQueue(name="lone")
    await service.start_workflow_execution(
        api.StartWorkflowExecutionRequest(
            **common, workflow_id="lone", workflow_type=WorkflowType(name="rounds"), task_queue=queue, request_id="1"
        )
    )

    async def next_task():
        request = api.PollWorkflowTaskQueueRequest(**common, task_queue=queue)
        return (await service.poll_workflow_task_queue(request)).task_token

    token, took = await next_task(), []
    for number in range(ROUNDS):
        began = time.perf_counter()
        schedule = ScheduleActivityTaskCommandAttributes(
            activity_id=str(number),
            activity_type=ActivityType(name="nothing"),
            task_queue=queue,
            schedule_to_close_timeout=Duration(seconds=60),
        )
        command = Command(
            command_type=CommandType.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK,
            schedule_activity_task_command_attributes=schedule,
        )
        await service.respond_workflow_task_completed(
            api.RespondWorkflowTaskCompletedRequest(**common, task_token=token, commands=[command])
        )
        polled = await service.poll_activity_task_queue(api.PollActivityTaskQueueRequest(**common, task_queue=queue))
        await service.respond_activity_task_completed(
            api.RespondActivityTaskCompletedRequest(**common, task_token=polled.task_token)
        )
        token = await next_task()
        took.append(time.perf_counter() - began)
    return statistics.median(took), [seconds for seconds in took if 1.9 < seconds < 2.5]


async def main():
    found = {}
    for name, settings in SETTINGS.items():
        # Without this, a server of this size hands out 20 tasks a second.
        settings = ["history.transferProcessorMaxPollRPS=10000", *settings]
        words = [word for one in settings for word in ("--dynamic-config-value", one)]
        async with await WorkflowEnvironment.start_local(
            dev_server_existing_path=sys.argv[1], dev_server_extra_args=[*words, "--log-level", "never"]
        ) as server:
            client = server.client
            median, slow = await slow_rounds(client.workflow_service, client.namespace)
        found[name] = len(slow)
        print(f"{name:14}: median {median * 1000:.0f} ms, {len(slow)} of {ROUNDS} rounds took two seconds")
    assert found["defaults"] > 0 and not found["one partition"] and not found["new matcher"], "it has changed"


asyncio.run(main())
PYTHON
"$folder/temporal" --version
"$folder/venv/bin/python" "$folder/lone.py" "$folder/temporal" > "$folder/seen"
grep " of 200 rounds " "$folder/seen"
