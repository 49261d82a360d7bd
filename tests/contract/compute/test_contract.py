"""The compute contract: volumes, the life of a run pod, its log, its end. One test per rule."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from knit_workflows import names
from knit_workflows.compute.base import Phase, StartFailureKind
from knit_workflows.domain.errors import BackendRejected
from knit_workflows.domain.runs.milestones import Milestone
from knit_workflows.domain.runs.run import SUCCEEDED
from knit_workflows.domain.volumes import Mount, Volume
from tests.contract.compute.abilities import Ability
from tests.contract.compute.adapter import ComputeAdapter
from tests.contract.compute.pods import INPUT, NO_GRACE, OTHER_OUTPUT, OUTPUT, Pods

TOO_MUCH = "dd if=/dev/zero of=/dev/null bs=200M count=1"
GHOST = Volume(names.volume("00000000-0000-4000-8000-00000000dead"), "dead")
"""A volume that nobody has made."""
COUNT_START = f"echo started >> {OUTPUT}/starts"


# --- volumes -----------------------------------------------------------------------------------


async def test_a_volume_created_again_keeps_its_content(pods: Pods) -> None:
    """There already: left as it is."""
    volume = await pods.volume({"a/b": b"content"})
    await pods.backend.create_volume(volume)
    assert await pods.adapter.read_volume(volume) == {"a/b": b"content"}


async def test_a_deleted_volume_leaves_no_content(pods: Pods) -> None:
    """Created anew under its name, it is empty."""
    volume = await pods.volume({"a": b"content"})
    await pods.backend.delete_volume(volume)
    await pods.backend.create_volume(volume)
    assert await pods.adapter.read_volume(volume) == {}


async def test_a_volume_that_is_gone_can_be_deleted(pods: Pods) -> None:
    """Gone already: fine."""
    volume = await pods.volume()
    await pods.backend.delete_volume(volume)
    await pods.backend.delete_volume(volume)


async def test_a_volume_that_somebody_has_deleted_is_missing(pods: Pods) -> None:
    """And one that nobody has made; not one that is there."""
    kept, deleted = await pods.volume({"a": b"content"}), await pods.volume({"a": b"content"})
    assert await pods.backend.missing_volumes([kept, deleted]) == []
    await pods.backend.delete_volume(deleted)
    assert await pods.backend.missing_volumes([GHOST, kept, deleted]) == [GHOST, deleted]


async def test_volumes_that_exist_are_told(pods: Pods) -> None:
    """Those of knit's own: what was made, until it is deleted."""
    kept, deleted = await pods.volume(), await pods.volume({"a": b"content"})
    began = datetime.now(UTC)

    async def found() -> dict[str, datetime | None]:
        return {one.name: one.created_at async for one in pods.backend.own_volumes()}

    first = await found()
    assert {kept.name, deleted.name} <= set(first)
    created = first[kept.name]
    assert created is None or created < began + timedelta(minutes=5)
    await pods.backend.delete_volume(deleted)
    async with asyncio.timeout(pods.adapter.patience.total_seconds()):
        while deleted.name in await found():
            await asyncio.sleep(0.1)
    assert kept.name in await found()


async def test_where_a_volume_comes_from_is_told_when_it_is_asked_for(pods: Pods) -> None:
    """Also after a repeated call; nothing of a volume that came from nowhere."""
    plain = await pods.volume()
    knit_id = str(uuid.uuid4())
    made = Volume(names.volume(knit_id), knit_id, origin='{"run": "ü"}')
    for _ in range(2):
        await pods.backend.create_volume(made)
    told = {one.name: one.origin async for one in pods.backend.own_volumes(with_origins=True)}
    assert (told[made.name], told[plain.name]) == (made.origin, "")
    assert {one.origin async for one in pods.backend.own_volumes()} == {""}
    await pods.backend.delete_volume(made)


# --- launch ------------------------------------------------------------------------------------


async def test_a_pod_turns_inputs_into_outputs(pods: Pods) -> None:
    """What it writes is in its output volumes, and stays there when the pod is released."""
    pod = await pods.make(
        f"cat {INPUT}/words > {OUTPUT}/copy",
        f"mkdir {OTHER_OUTPUT}/deep && echo two > {OTHER_OUTPUT}/deep/file",
        files={"words": b"one\n"},
    )
    before = datetime.now(UTC)
    end = await pods.ran(pod)
    assert (end.phase, end.exit) == (Phase.SUCCEEDED, SUCCEEDED)
    # A second of tolerance: another machine's clock, or coarse ones.
    second = timedelta(seconds=1)
    assert before - second <= end.timeline[Milestone.ENDED] <= datetime.now(UTC) + second
    await pods.backend.release(pod.name)
    assert await pods.output(pod, "copy") == "one\n"
    assert await pods.file(pod.outputs[1].volume, "deep/file") == "two\n"


async def test_a_trial_starts_nothing_and_needs_nothing(pods: Pods) -> None:
    """No volume of it is there; a launch afterwards is the first."""
    pod = await pods.make(COUNT_START)
    ghosts = replace(
        pod,
        inputs=(Mount(INPUT, GHOST),),
        outputs=(Mount(OUTPUT, replace(GHOST, knit_id=str(uuid.uuid4()))),),
        log=None,
    )
    before = await pods.backend.run_pods()
    assert (await pods.backend.try_launch(ghosts)).refusals == ()
    assert (await pods.backend.observe(pod.name)).phase is Phase.ABSENT
    assert await pods.backend.run_pods() == before
    assert await pods.backend.measure_volume(GHOST) is None
    assert (await pods.ran(pod)).phase is Phase.SUCCEEDED
    assert await pods.output(pod, "starts") == "started\n"


async def test_a_trial_refuses_what_a_launch_refuses(pods: Pods) -> None:
    pod = replace(await pods.make("true"), resources={"no such resource": "1"})
    [refusal, *_] = (await pods.backend.try_launch(pod)).refusals
    assert "no such resource" in refusal
    with pytest.raises(BackendRejected, match="no such resource"):
        await pods.backend.launch(pod)


async def test_a_pod_launched_twice_starts_once(pods: Pods) -> None:
    """There already and running: nothing happens."""
    pod = await pods.launched(COUNT_START, "sleep 0.3")
    await pods.until_output(pod, "starts")
    await pods.backend.launch(pod)
    assert (await pods.ended(pod.name)).phase is Phase.SUCCEEDED
    assert await pods.output(pod, "starts") == "started\n"


async def test_concurrent_launches_start_once(pods: Pods) -> None:
    """Whoever comes first starts it."""
    pod = await pods.make(COUNT_START, "sleep 0.1")
    await asyncio.gather(*(pods.backend.launch(pod) for _ in range(8)))
    assert (await pods.ended(pod.name)).phase is Phase.SUCCEEDED
    assert await pods.output(pod, "starts") == "started\n"


async def test_launching_an_ended_pod_does_nothing(pods: Pods) -> None:
    """There already and ended: its end stays what it was."""
    pod = await pods.make(COUNT_START, "exit 3")
    end = await pods.ran(pod)
    await pods.backend.launch(pod)
    assert await pods.backend.observe(pod.name) == end
    assert await pods.output(pod, "starts") == "started\n"


@pytest.mark.needs(Ability.READ_ONLY_INPUTS)
async def test_an_input_cannot_be_written_to(pods: Pods, adapter: ComputeAdapter) -> None:
    """Neither its files nor its folder, whatever the container's user is."""
    pod = await pods.make(
        f"echo more >> {INPUT}/words && echo written",
        f"echo new > {INPUT}/new && echo written",
        "true",
        files={"words": b"one\n"},
    )
    assert (await pods.ran(pod)).phase is Phase.SUCCEEDED
    assert "written" not in await pods.file(pod.log, "log")
    assert await adapter.read_volume(pod.inputs[0].volume) == {"words": b"one\n"}


async def test_one_volume_may_be_several_inputs(pods: Pods) -> None:
    """The same Data satisfies several inputs."""
    pod = await pods.make(f"cat {INPUT}/words /in/same/words", files={"words": b"one\n"})
    first = pod.inputs[0]
    pod = replace(pod, inputs=(first, replace(first, path="/in/same")))
    assert (await pods.ran(pod)).phase is Phase.SUCCEEDED
    assert await pods.file(pod.log, "log") == "one\none\n"


async def test_an_output_with_content_fails_the_pod(pods: Pods) -> None:
    """It is named, nothing of it changes, and the user's command is not run."""
    pod = await pods.make(COUNT_START)
    await pods.adapter.write_volume(pod.outputs[1].volume, {".hidden": b"old"})
    end = await pods.ran(pod)
    assert end.phase is Phase.FAILED
    assert end.exit is not None
    assert end.exit.code != 0
    assert OTHER_OUTPUT in end.exit.message
    assert end.exit.message.startswith(("(container init-", "(container nurse)"))
    assert await pods.output(pod, "starts") == ""
    assert await pods.adapter.read_volume(pod.outputs[1].volume) == {".hidden": b"old"}


async def test_a_log_volume_with_content_fails_the_pod(pods: Pods) -> None:
    """A log is never written over."""
    pod = await pods.make(COUNT_START)
    assert pod.log is not None
    await pods.adapter.write_volume(pod.log, {"log": b"old"})
    assert (await pods.ran(pod)).phase is Phase.FAILED
    assert await pods.file(pod.log, "log") == "old"


async def test_a_command_gets_its_words_as_they_are(pods: Pods) -> None:
    """Entrypoint and arguments are joined; blanks, quotes, dollars and line breaks survive."""
    words = ("two words", 'quote\'s "both"', "$HOME `id` \\n", "line\nbreak", "--flag=ä", "*")
    pod = await pods.make(command=("printf", "[%s]", *words))
    assert (await pods.ran(pod)).phase is Phase.SUCCEEDED
    assert await pods.file(pod.log, "log") == "".join(f"[{word}]" for word in words)


async def test_a_container_sees_its_environment_only(
    pods: Pods, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What hooks gave it is there, what knit's own process has is not."""
    monkeypatch.setenv("KNIT_SECRET", "do not tell")
    given = {"FROM_HOOK": "a b=c", "OTHER": "line\nbreak", "QUOTED": " #'\"$x`\\ ", "NONE": ""}
    # A shell drops the first two of these, and has a value of its own for the third.
    given |= {"my.var": "1", "A-B": "2", "IFS": ":"}
    pod = await pods.make(command=("env",), env=given)
    assert (await pods.ran(pod)).phase is Phase.SUCCEEDED
    seen = await pods.file(pod.log, "log")
    assert "FROM_HOOK=a b=c\n" in seen
    assert "QUOTED= #'\"$x`\\ \n" in seen
    assert "NONE=\n" in seen
    assert "OTHER=line\nbreak\n" in seen
    assert {"my.var=1", "A-B=2", "IFS=:"} <= set(seen.splitlines())
    assert "KNIT_" not in seen
    assert "do not tell" not in seen


async def test_a_resource_that_cannot_be_is_rejected(pods: Pods) -> None:
    """It is an error of the call, since the pod can never be made."""
    pod = await pods.make("true")
    with pytest.raises(BackendRejected):
        await pods.backend.launch(replace(pod, resources={"not a name!": "1"}))


# --- the log -----------------------------------------------------------------------------------


async def test_the_log_has_stdout_and_stderr_in_order(pods: Pods) -> None:
    """As they were written, and nothing else."""
    lines = [f"echo line {n}{' >&2' if n % 2 else ''}; sleep 0.05" for n in range(6)]
    pod = await pods.make(*lines)
    assert (await pods.ran(pod)).phase is Phase.SUCCEEDED
    assert pod.log is not None
    expected = "".join(f"line {n}\n" for n in range(6)).encode()
    assert await pods.adapter.read_volume(pod.log) == {"log": expected}


@pytest.mark.parametrize("code", [0, 1])
async def test_the_log_is_complete_when_the_end_is_seen(pods: Pods, code: int) -> None:
    """Some megabytes, written right before the end, are all there at once."""
    pod = await pods.make("seq 1 300000", "echo last", f"exit {code}")
    end = await pods.ran(pod)
    assert end.exit is not None
    assert end.exit.code == code
    text = await pods.file(pod.log, "log")
    assert text.endswith("299999\n300000\nlast\n")
    assert text.count("\n") == 300001


async def test_the_log_grows_while_the_pod_runs(pods: Pods) -> None:
    """It can be followed."""
    pod = await pods.launched("echo first", "sleep 60")
    async with asyncio.timeout(pods.adapter.patience.total_seconds()):
        while await pods.file(pod.log, "log") != "first\n":
            await asyncio.sleep(0.02)
    await pods.running(pod.name)  # it may be told a moment later


async def test_a_silent_pod_leaves_an_empty_log(pods: Pods) -> None:
    """The file is there."""
    pod = await pods.make("true")
    assert (await pods.ran(pod)).phase is Phase.SUCCEEDED
    assert pod.log is not None
    assert await pods.adapter.read_volume(pod.log) == {"log": b""}


async def test_a_pod_need_not_have_a_log(pods: Pods) -> None:
    """Then what it says is lost, and it may say much."""
    pod = await pods.make("seq 1 100000", log=False)
    assert (await pods.ran(pod)).phase is Phase.SUCCEEDED


# --- how it ends -------------------------------------------------------------------------------


async def test_a_failing_command_is_an_outcome(pods: Pods) -> None:
    """Its exit code and its container are told."""
    end = await pods.ran(await pods.make("exit 3"))
    assert end.phase is Phase.FAILED
    assert end.exit is not None
    assert (end.exit.code, end.exit.message) == (3, "(container main) Error")


@pytest.mark.needs(Ability.IMAGES)
@pytest.mark.parametrize("log", [True, False])
async def test_a_command_that_cannot_be_started_says_why(pods: Pods, *, log: bool) -> None:
    """In the words of who could not start it, whether there is a log or not."""
    pod = await pods.make(command=("/nonexistent/x", "y"), log=log)
    end = await pods.ran(pod)
    assert end.exit is not None
    assert end.exit.code == 128
    assert "/nonexistent/x" in end.exit.message
    assert "no such file or directory" in end.exit.message.lower()


async def test_a_killed_command_ends_with_128_and_the_signal(pods: Pods) -> None:
    """As shells and container runtimes count."""
    end = await pods.ran(await pods.make("sh -c 'kill -KILL $$'", "exit $?"))
    assert end.phase is Phase.FAILED
    assert end.exit is not None
    assert end.exit.code == 137
    assert end.exit.message.startswith("(container main) ")


async def test_a_command_that_does_not_exist_is_an_outcome(pods: Pods) -> None:
    """Not an error of the call."""
    end = await pods.ran(await pods.make(command=("/no/such/command",)))
    assert end.phase is Phase.FAILED
    assert end.exit is not None
    assert end.exit.code != 0
    assert end.exit.message.startswith("(container main) ")


@pytest.mark.needs(Ability.MEMORY_LIMIT)
async def test_a_container_out_of_memory_is_killed(pods: Pods) -> None:
    """Its limit is enforced."""
    end = await pods.ran(await pods.make(TOO_MUCH, memory="32Mi"))
    assert end.exit is not None
    assert end.exit.code == 137


@pytest.mark.needs(Ability.MEMORY_LIMIT)
async def test_running_out_of_memory_is_told(pods: Pods, adapter: ComputeAdapter) -> None:
    """In the words of Kubernetes, where the engine knows it."""
    end = await pods.ran(await pods.make(TOO_MUCH, memory="32Mi"))
    assert end.exit is not None
    assert end.exit.message == adapter.out_of_memory


@pytest.mark.needs(Ability.IMAGES)
async def test_a_missing_image_keeps_a_pod_pending(pods: Pods, adapter: ComputeAdapter) -> None:
    """The pod waits, says why, and can be stopped."""
    pod = await pods.make("true", image=adapter.missing_image)
    await pods.backend.launch(pod)
    seen = await pods.until(
        pod.name,
        lambda seen: (
            seen.start_failure is not None and seen.start_failure.kind is StartFailureKind.IMAGE
        ),
    )
    assert seen.phase is Phase.PENDING
    assert seen.start_failure is not None
    assert seen.start_failure.message
    await pods.backend.stop(pod.name, grace=NO_GRACE)
    await pods.gone(pod.name)


@pytest.mark.needs(Ability.IMAGES)
async def test_a_registry_that_is_away_is_a_transient_failure(pods: Pods) -> None:
    """It is told as such, however often it is tried again."""
    pod = await pods.make("true", image=pods.adapter.unreachable_image)
    await pods.backend.launch(pod)
    seen = await pods.until(
        pod.name,
        lambda seen: seen.start_failure is not None and "refused" in seen.start_failure.message,
    )
    assert seen.phase is Phase.PENDING
    assert seen.start_failure is not None
    assert seen.start_failure.kind is StartFailureKind.TRANSIENT
    assert " " not in seen.start_failure.reason
    await pods.backend.stop(pod.name, grace=NO_GRACE)
    await pods.gone(pod.name)


# --- what is left of it ------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 3])
async def test_what_cannot_be_kept_of_an_output_is_noted_with_the_end(
    pods: Pods, code: int
) -> None:
    """However it ended, each time it is asked; of an output that can be kept nothing is said."""
    pod = await pods.launched(
        COUNT_START, f"while [ ! -e {OUTPUT}/go ]; do sleep 0.05; done", f"exit {code}"
    )
    await pods.until_output(pod, "starts")
    assert (await pods.backend.observe(pod.name)).notes == ()
    await pods.adapter.leave_socket(pod.outputs[0].volume, "worker.sock")
    await pods.adapter.write_volume(pod.outputs[0].volume, {"go": b""})
    noted = (f"output {OUTPUT}: 1 socket is not kept: worker.sock",)
    assert (await pods.ended(pod.name)).notes == noted
    assert (await pods.backend.observe(pod.name)).notes == noted


@pytest.mark.needs(Ability.OUTLIVES)
async def test_another_process_notes_the_same(pods: Pods, adapter: ComputeAdapter) -> None:
    """A killed worker's successor looks again, or finds what was noted."""
    pod = await pods.launched(COUNT_START, f"while [ ! -e {OUTPUT}/go ]; do sleep 0.05; done")
    await pods.until_output(pod, "starts")
    await pods.adapter.leave_socket(pod.outputs[0].volume, "worker.sock")
    await pods.adapter.write_volume(pod.outputs[0].volume, {"go": b""})
    end = await pods.ended(pod.name)
    async with adapter.another() as other:
        assert (await other.observe(pod.name)).notes == end.notes != ()


# --- observe, release, housekeeping ------------------------------------------------------------


async def test_a_pod_never_launched_is_absent(pods: Pods) -> None:
    """What is not there is not an error."""
    pod = await pods.make("true")
    assert (await pods.backend.observe(pod.name)).phase is Phase.ABSENT
    assert pod.name not in await pods.backend.run_pods()


async def test_a_pod_is_seen_running_until_it_ends(pods: Pods) -> None:
    """Its exit is set only then."""
    # As long as it has not been seen: a kubelet may pass over what runs for less than a second.
    pod = await pods.launched(COUNT_START, f"while [ ! -e {OUTPUT}/go ]; do sleep 0.05; done")
    await pods.until_output(pod, "starts")
    seen = await pods.running(pod.name)
    assert seen.exit is None
    assert Milestone.ENDED not in seen.timeline
    assert pod.name in await pods.backend.run_pods()
    await pods.adapter.write_volume(pod.outputs[0].volume, {"go": b""})
    end = await pods.ended(pod.name)
    assert end.phase is Phase.SUCCEEDED
    assert await pods.backend.observe(pod.name) == end
    assert pod.name in await pods.backend.run_pods()


async def test_a_released_pod_is_gone_and_its_volumes_stay(pods: Pods) -> None:
    """It may be released again."""
    pod = await pods.make(COUNT_START, "echo said")
    await pods.ran(pod)
    await pods.backend.release(pod.name)
    await pods.gone(pod.name)
    await pods.backend.release(pod.name)
    assert pod.name not in await pods.backend.run_pods()
    assert await pods.output(pod, "starts") == "started\n"
    assert await pods.file(pod.log, "log") == "said\n"


async def test_what_was_never_launched_can_be_released(pods: Pods) -> None:
    """Gone already: fine."""
    await pods.backend.release((await pods.make("true")).name)


@pytest.mark.needs(Ability.IMAGES)
async def test_an_image_pinned_by_its_digest_runs(pods: Pods) -> None:
    """With its tag or without, and the digest that ran is the one that was asked for."""
    by_tag = await pods.ran(await pods.make("true"))
    assert by_tag.image_digest is not None
    image = pods.adapter.image
    for name in (image, image.rpartition(":")[0]):
        pinned = await pods.make("true", image=f"{name}@{by_tag.image_digest}")
        seen = await pods.ran(pinned)
        assert (seen.phase, seen.image_digest) == (Phase.SUCCEEDED, by_tag.image_digest)
