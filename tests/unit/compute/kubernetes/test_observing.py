"""What pods, Jobs and events mean."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import ClassVar

import pytest

from knit_workflows.compute.base import (
    Observation,
    Phase,
    StartFailure,
    StartFailureKind,
    oom_note,
)
from knit_workflows.compute.kubernetes.pods.endings import needs_job, waits_for_others
from knit_workflows.compute.kubernetes.pods.observing import (
    is_change,
    observe_job,
    observe_pod,
    relevant_pod,
)
from knit_workflows.compute.kubernetes.pods.stalled import why_stalled
from knit_workflows.compute.kubernetes.pods.start_failures import WarningEvent
from knit_workflows.compute.kubernetes.pods.trimming import trim
from knit_workflows.domain.runs.milestones import Milestone
from knit_workflows.domain.runs.run import Exit

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def iso(instant: datetime) -> str:
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")


def ended(code: int, reason: str | None = None, message: str = "", at: datetime = NOW) -> dict:
    reason = reason or ("Error" if code else "Completed")
    state = {"exitCode": code, "reason": reason, "finishedAt": iso(at)}
    return {"terminated": state | ({"message": message} if message else {})}


RUNNING = {"running": {"startedAt": iso(NOW)}}


def waiting(reason: str, message: str = "") -> dict:
    return {"waiting": {"reason": reason, "message": message}}


def pod(
    phase: str,
    *,
    main: dict | None = None,
    nurse: dict | None = None,
    init: dict | None = None,
    age: float = 10,
    **about: object,
) -> dict:
    def status(name: str, state: dict) -> dict:
        return {"name": name, "state": state, "imageID": "reg.example/x@sha256:abc"}

    containers = {"main": main, "nurse": nurse}
    return {
        "metadata": {
            "name": "p",
            "uid": "u",
            "creationTimestamp": iso(NOW - timedelta(seconds=age)),
            **(about.pop("metadata", {})),
        },
        "spec": {"containers": [{"name": name} for name, state in containers.items() if state]},
        "status": {
            "phase": phase,
            "containerStatuses": [status(n, s) for n, s in containers.items() if s],
            "initContainerStatuses": [status("init-main", init)] if init else [],
            **about,
        },
    }


def seen(thing: dict, *warnings: WarningEvent, job: dict | None = None):
    """What is observed of a pod, which is the same of the part that a watch keeps of it."""
    observation = observe_pod(thing, warnings, NOW, job=job)
    assert observe_pod(trim(thing), warnings, NOW, job=job) == observation
    return observation


def _strings(thing: object) -> list[str]:
    if isinstance(thing, dict):
        return [text for part in (*thing, *thing.values()) for text in _strings(part)]
    if isinstance(thing, list):
        return [text for part in thing for text in _strings(part)]
    return [thing] if isinstance(thing, str) else []


class TestPhases:
    def test_pending_until_main_has_started_even_if_the_nurse_has(self):
        thing = pod("Running", main=waiting("ContainerCreating"), nurse=RUNNING)
        assert seen(thing).phase is Phase.PENDING

    def test_a_pod_without_any_status_is_pending(self):
        bare = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "main"}]}}
        assert seen(bare).phase is Phase.PENDING

    def test_running(self):
        observation = seen(pod("Running", main=RUNNING, nurse=RUNNING))
        assert observation.phase is Phase.RUNNING
        assert observation.exit is None
        assert observation.image_digest == "sha256:abc"

    def test_main_has_ended_but_its_log_is_not_complete(self):
        observation = seen(pod("Running", main=ended(3), nurse=RUNNING))
        assert observation.phase is Phase.RUNNING
        assert observation.exit is None
        assert Milestone.ENDED in observation.timeline
        assert Milestone.LOGGED not in observation.timeline

    @pytest.mark.parametrize(
        ("main", "nurse", "expected", "verb"),
        [
            (ended(0), RUNNING, Exit(0, ""), "end"),
            (ended(1), RUNNING, Exit(1, "(container main) Error"), "end"),
            (
                ended(137),
                waiting("ImagePullBackOff"),
                Exit(137, "(container main) killed by signal 9 (SIGKILL)"),
                "start",
            ),
        ],
    )
    def test_a_log_that_is_never_complete_is_not_waited_for_for_ever(
        self, main, nurse, expected, verb
    ):
        """As where a webhook's wrapper failed before it had started knit's program."""
        thing = pod("Running", main=main, nurse=nurse)
        early = observe_pod(thing, (), NOW + timedelta(minutes=9))
        assert early.phase is Phase.RUNNING
        late = observe_pod(thing, (), NOW + timedelta(hours=1))
        assert (late.exit, late.lingering, late.disruption) == (expected, True, "")
        assert late.notes == (f"log: it may be incomplete: knit's container did not {verb}",)

    def test_nor_is_a_pod_that_is_being_taken_away_judged_by_it(self):
        thing = pod("Running", main=ended(1), nurse=RUNNING, conditions=[TARGET])
        assert observe_pod(thing, (), NOW + timedelta(hours=1)).phase is Phase.RUNNING

    def test_succeeded(self):
        observation = seen(pod("Succeeded", main=ended(0), nurse=ended(0)))
        assert observation.phase is Phase.SUCCEEDED
        assert observation.exit == Exit(0, "")
        assert observation.timeline[Milestone.ENDED] == NOW
        assert observation.start_failure is None

    def test_what_the_nurse_says_of_the_outputs_is_noted(self):
        told = "output /a: 1 socket is not kept: s\noutput /b: 2 sockets are not kept: s, t\n"
        for main in (ended(0), ended(3)):
            phase = "Succeeded" if main == ended(0) else "Failed"
            observation = seen(pod(phase, main=main, nurse=ended(0, message=told)))
            assert observation.notes == tuple(told.splitlines())
            assert "socket" not in observation.exit.message

    def test_a_result_is_not_lost_because_its_log_was(self):
        """The Run is done, and it is said what happened to its log."""
        for failed, told in (
            (ended(3, message="cannot read"), "(container nurse) Error: cannot read"),
            (ended(137, "OOMKilled"), "(container nurse) OOMKilled"),
        ):
            observation = seen(pod("Failed", main=ended(0), nurse=failed))
            assert (observation.phase, observation.exit) == (Phase.SUCCEEDED, Exit(0, ""))
            assert observation.notes == (f"log: it is incomplete: {told}",)

    def test_without_its_log_an_evicted_run_has_failed_all_the_same(self):
        thing = pod("Failed", main=ended(0), nurse=ended(137), reason="Evicted", message="Memory.")
        assert seen(thing).phase is Phase.FAILED
        assert seen(thing).exit == Exit(255, "(pod p) Evicted: Memory.")

    def test_a_command_that_was_not_let_start_has_not_failed_itself(self):
        why = "/out is not empty: it has 'x' in it."
        thing = pod("Failed", main=ended(1, message=why), nurse=ended(1, message=why))
        assert seen(thing).exit == Exit(1, f"(container nurse) Error: {why}")
        assert seen(thing).notes == ()

    def test_a_container_that_cannot_be_started_is_not_waited_for_by_its_log(self):
        main = ended(128, "StartError", "unable to set memory limit")
        main["terminated"]["startedAt"] = "1970-01-01T00:00:00Z"
        observation = seen(pod("Running", main=main, nurse=RUNNING))
        assert observation.phase is Phase.FAILED
        assert observation.exit == Exit(
            128, "(container main) StartError: unable to set memory limit"
        )

    def test_a_program_that_is_not_there_yet_is_waited_for_and_its_pod_replaced(self):
        """The kubelet starts `main` though it could not pull the image of the nurse just before."""
        main = ended(128, "StartError", "exec: /.knit/knit-pod: no such file or directory")
        main["terminated"]["startedAt"] = "1970-01-01T00:00:00Z"
        pull = waiting("ErrImagePull", "pull QPS exceeded")
        thing = pod("Pending", main=main, nurse=pull)
        late = seen(thing)
        assert late.phase is Phase.PENDING
        assert late.start_failure is not None
        assert "(container nurse) pull QPS exceeded" in late.start_failure.message
        begun = {"running": {"startedAt": iso(NOW + timedelta(seconds=11))}}
        replaced = seen(pod("Running", main=main, nurse=begun))
        assert (replaced.phase, replaced.lingering) == (Phase.FAILED, True)
        assert "started after main" in replaced.disruption
        # With an init container nothing is in front of the command: it is the command's fault.
        thing["spec"]["initContainers"] = [{"name": "init-main"}]
        assert (seen(thing).phase, seen(thing).disruption) == (Phase.FAILED, "")

    @pytest.mark.parametrize(
        "message",
        [
            "knit's container cannot be reached: Connection refused",
            "knit's container has gone away",
        ],
    )
    def test_a_command_that_never_ran_because_the_nurse_had_died_is_run_again(self, message):
        thing = pod("Failed", main=ended(128, message=message), nurse=ended(137, "OOMKilled"))
        observation = seen(thing)
        assert observation.disruption == f"(container main) {message}"
        assert observation.exit == Exit(
            128, f"(container main) Error: {message}; (container nurse) OOMKilled"
        )
        # One that cannot be reached although it runs does not end by itself.
        thing = pod("Running", main=ended(128, message=message), nurse=RUNNING)
        late = observe_pod(thing, (), NOW + timedelta(hours=1))
        assert (late.disruption, late.lingering) == (observation.disruption, True)

    def test_what_a_command_says_of_itself_is_no_disruption(self):
        for code, message in ((1, "knit's container has gone away"), (128, 'exec: "x": not found')):
            thing = pod("Failed", main=ended(code, message=message), nurse=ended(0))
            assert seen(thing).disruption == ""

    def test_a_program_that_a_dead_nurse_has_not_laid_down_is_no_fault_of_the_command(self):
        main = ended(128, "StartError", "exec: /.knit/knit-pod: no such file or directory")
        main["terminated"]["startedAt"] = "1970-01-01T00:00:00Z"
        nurse = ended(1, message="knit-pod: the program cannot be provided: No space left")
        for phase in ("Running", "Failed"):
            thing = pod(phase, main=main, nurse=nurse)
            assert "(container nurse) ended before main" in seen(thing).disruption
            assert "No space left" in seen(thing).exit.message
            thing["spec"]["initContainers"] = [{"name": "init-main"}]
            assert seen(thing).disruption == ""
        later = ended(137, at=NOW + timedelta(seconds=2))
        assert seen(pod("Failed", main=main, nurse=later)).disruption == ""

    def test_what_no_database_can_hold_is_replaced(self):
        thing = pod("Failed", main=ended(1, message="a\0b"), nurse=ended(0, message="c\0d\n"))
        observation = seen(thing)
        assert observation.exit == Exit(1, "(container main) Error: a b")
        assert observation.notes == ("c d",)

    def test_pods_are_cut_down_without_changing_what_is_seen(self):
        whole = pod("Failed", main=ended(3))
        whole["spec"]["dnsPolicy"] = "Default"
        whole["metadata"]["managedFields"] = ["much"]
        whole["status"]["podIPs"] = [{"ip": "10.0.0.9"}]
        whole["status"]["containerStatuses"][0]["volumeMounts"] = [{"name": "out"}]
        assert seen(trim(whole)) == seen(whole)
        kept = str(trim(whole))
        assert not any(word in kept for word in ("dnsPolicy", "much", "podIPs", "volumeMounts"))

    def test_what_is_kept_of_many_pods_shares_its_strings(self):
        """Each JSON text that is parsed has brought its own, of the keys too."""
        first, second = (
            trim(json.loads(json.dumps(pod("Failed", main=ended(3))))) for _ in range(2)
        )
        assert _strings(first) == _strings(second)
        one, other = ({id(text) for text in _strings(kept)} for kept in (first, second))
        assert one == other

    def test_a_pod_that_was_cut_down_still_tells_what_it_waits_for(self):
        """Its scheduler, its node and its claims: the watch's own copy is what is looked at."""
        whole = pod("Pending")
        whole["spec"]["schedulerName"] = "theirs"
        assert why_stalled(trim(whole), {}, []) == why_stalled(whole, {}, [])
        assert "theirs" in why_stalled(trim(whole), {}, []).message
        whole["spec"]["nodeName"] = "n7"
        whole["status"]["conditions"] = [{"type": "PodScheduled", "status": "True"}]
        whole["status"].pop("containerStatuses", None)
        assert why_stalled(trim(whole), {}, []) == why_stalled(whole, {}, [])
        assert "n7" in why_stalled(trim(whole), {}, []).message

    def test_succeeded_before_the_kubelet_has_tidied_up(self):
        observation = seen(pod("Running", main=ended(0), nurse=ended(0)))
        assert observation.phase is Phase.SUCCEEDED
        assert observation.exit == Exit(0, "")

    def test_a_failure_waits_for_its_reasons(self):
        assert seen(pod("Running", main=ended(137), nurse=ended(0))).phase is Phase.RUNNING


class TestImages:
    def ran(self, image: str, reported: str) -> str | None:
        thing = pod("Running", main=RUNNING)
        thing["spec"]["containers"][0]["image"] = image
        thing["status"]["containerStatuses"][0]["imageID"] = reported
        assert seen(trim(thing)).image_digest == seen(thing).image_digest
        return seen(thing).image_digest

    def test_another_name_of_the_same_image_is_recorded_as_it_is(self):
        """As a node reports it that has pulled the image under a second name later."""
        asked, other = "localhost:5000/train:v1", "localhost:5000/of-others@sha256:cd"
        assert self.ran(asked, other) == other
        assert self.ran(asked, "localhost:5000/train@sha256:ab") == "sha256:ab"

    def test_a_node_that_reports_nothing_yet(self):
        assert self.ran("x", "") is None


class TestExits:
    @pytest.mark.parametrize(
        ("main", "nurse", "expected"),
        [
            (ended(3), ended(0), Exit(3, "(container main) Error")),
            (ended(137, "OOMKilled"), ended(0), Exit(137, "(container main) OOMKilled")),
            (
                ended(137),
                ended(0),
                Exit(137, "(container main) killed by signal 9 (SIGKILL)"),
            ),
            (ended(255), ended(0), Exit(255, "(container main) Error")),
            (
                ended(128, "StartError", 'exec: "nope": executable file not found in $PATH'),
                ended(0),
                Exit(
                    128,
                    '(container main) StartError: exec: "nope": executable file not found in $PATH',
                ),
            ),
            (ended(1), ended(2), Exit(1, "(container main) Error; (container nurse) Error")),
        ],
    )
    def test_the_users_code_counts_and_every_failure_is_told(self, main, nurse, expected):
        observation = seen(pod("Failed", main=main, nurse=nurse))
        assert observation.phase is Phase.FAILED
        assert observation.exit == expected

    def test_an_init_container_says_what_it_found(self):
        thing = pod(
            "Failed",
            main=waiting("PodInitializing"),
            nurse=waiting("PodInitializing"),
            init=ended(1, message="/out is not empty"),
        )
        assert seen(thing).exit == Exit(1, "(container init-main) Error: /out is not empty")
        assert Milestone.ENDED not in seen(thing).timeline

    def test_an_evicted_pod(self):
        thing = pod(
            "Failed", main=ended(137), reason="Evicted", message="The node was low on memory."
        )
        assert seen(thing).exit == Exit(
            137,
            "(pod p) Evicted: The node was low on memory.; "
            "(container main) killed by signal 9 (SIGKILL)",
        )

    def test_a_pod_that_the_node_refused(self):
        thing = pod("Failed", reason="OutOfcpu", message="Node didn't have enough resource")
        assert seen(thing).exit == Exit(255, "(pod p) OutOfcpu: Node didn't have enough resource")

    def test_a_failure_without_a_reason_is_a_failure(self):
        assert seen(pod("Failed", main=ended(0))).exit == Exit(
            255, "(pod p) failed, and Kubernetes gives no reason"
        )

    def test_a_code_that_would_be_cut_to_success_stays_a_failure(self):
        assert seen(pod("Failed", main=ended(256))).exit == Exit(255, "(container main) Error")


class TestDeletedPods:
    def deleted(self, requested: datetime, grace: int) -> dict:
        return {
            "deletionTimestamp": iso(requested + timedelta(seconds=grace)),
            "deletionGracePeriodSeconds": grace,
        }

    def test_a_program_that_obeys_sigterm_was_interrupted_all_the_same(self):
        thing = pod("Succeeded", main=ended(0), metadata=self.deleted(NOW, 30))
        observation = seen(thing)
        assert observation.phase is Phase.FAILED
        assert observation.exit == Exit(254, "(pod p) deleted while it was running")

    def test_also_after_the_kubelet_has_confirmed(self):
        for seconds in (0, 2):
            about = self.deleted(NOW - timedelta(seconds=seconds), 0)
            assert seen(pod("Succeeded", main=ended(0), metadata=about)).phase is Phase.FAILED

    def test_an_ended_pod_that_is_removed_has_ended_well(self):
        about = self.deleted(NOW + timedelta(seconds=61), 0)
        assert seen(pod("Succeeded", main=ended(0), metadata=about)).phase is Phase.SUCCEEDED

    def test_clocks_may_differ_by_less_than_that(self):
        about = self.deleted(NOW + timedelta(seconds=59), 0)
        assert seen(pod("Succeeded", main=ended(0), metadata=about)).phase is Phase.FAILED

    def test_a_pod_being_deleted_is_still_running(self):
        """On a lost node for long; it says so."""
        thing = pod("Running", main=RUNNING, metadata=self.deleted(NOW, 30))
        assert seen(thing).phase is Phase.RUNNING
        assert seen(thing).disruption == "deleted while it was running"
        thing["status"]["conditions"] = [TARGET]
        assert seen(thing).disruption == EVICTED


TARGET = {
    "type": "DisruptionTarget",
    "status": "True",
    "reason": "EvictionByEvictionAPI",
    "message": "Eviction API: evicting",
    "lastTransitionTime": iso(NOW - timedelta(seconds=5)),
}
EVICTED = "EvictionByEvictionAPI: Eviction API: evicting"
JOB = {"metadata": {"name": "j"}, "status": {}}
COUNTED = {"metadata": {"name": "j"}, "status": {"failed": 1}}
GOING = {"metadata": {"name": "j", "deletionTimestamp": iso(NOW)}, "status": {}}


class TestDisruptions:
    """Pods that were taken away, whatever their program made of it."""

    def taken(self, at: datetime, grace: int) -> dict:
        expires = iso(at + timedelta(seconds=grace))
        return {"deletionTimestamp": expires, "deletionGracePeriodSeconds": grace}

    def evicted(self, phase: str, main: dict, *, grace: int = 30, **about: object) -> dict:
        metadata = self.taken(NOW - timedelta(seconds=5), grace)
        return pod(phase, main=main, conditions=[TARGET], metadata=metadata, **about)

    def test_a_drained_node_is_told(self):
        observation = seen(self.evicted("Failed", ended(143)))
        assert observation.disruption == EVICTED
        assert observation.exit == Exit(
            143, f"(pod p) {EVICTED}; (container main) killed by signal 15 (SIGTERM)"
        )

    def test_an_evicted_program_that_obeys_is_not_done(self):
        observation = seen(self.evicted("Succeeded", ended(0)))
        assert observation.exit == Exit(254, f"(pod p) {EVICTED}")
        assert observation.disruption == EVICTED

    def test_not_even_when_the_deletion_timestamp_was_rewritten(self):
        """As recorded on a node: main ended first, the kubelet let go of the pod 5 s later."""
        thing = self.evicted("Succeeded", ended(0), grace=0)
        thing["metadata"]["deletionTimestamp"] = iso(NOW + timedelta(seconds=5))
        assert seen(thing).phase is Phase.FAILED
        assert seen(thing).disruption == EVICTED

    def test_its_end_waits_for_the_phase(self):
        thing = self.evicted("Running", ended(0), nurse=ended(0))
        assert seen(thing).phase is Phase.RUNNING

    def test_what_had_ended_long_before_is_not_run_again(self):
        for phase, main, code in (("Succeeded", ended(0), 0), ("Failed", ended(3), 3)):
            thing = self.evicted(phase, main)
            late = iso(NOW + timedelta(minutes=5))
            thing["status"]["conditions"] = [TARGET | {"lastTransitionTime": late}]
            assert (seen(thing).exit.code, seen(thing).disruption) == (code, "")

    def test_an_eviction_that_was_given_up_is_none(self):
        thing = pod("Succeeded", main=ended(0), conditions=[TARGET | {"status": "False"}])
        assert seen(thing).phase is Phase.SUCCEEDED
        thing = pod("Succeeded", main=ended(0), conditions=[TARGET])
        assert seen(thing).phase is Phase.SUCCEEDED  # it was never told to end

    @pytest.mark.parametrize(
        ("job", "disruption"),
        [
            (JOB, "deleted while it was running"),
            (COUNTED, "deleted while it was running"),
            (GOING, ""),
            (None, ""),
        ],
    )
    def test_whoever_deletes_the_pod_makes_room_whoever_deletes_the_job_means_it(
        self, job, disruption
    ):
        thing = pod("Succeeded", main=ended(0), metadata=self.taken(NOW, 0))
        assert needs_job(thing)
        observation = seen(thing, job=job)
        assert observation.exit == Exit(254, "(pod p) deleted while it was running")
        assert observation.disruption == disruption

    def test_the_count_of_the_job_decides_after_a_long_grace(self):
        long_after = self.taken(NOW + timedelta(minutes=10), 0)
        thing = pod("Succeeded", main=ended(0), metadata=long_after)
        assert seen(thing, job=JOB).phase is Phase.SUCCEEDED
        assert seen(thing, job=COUNTED).phase is Phase.FAILED

    def test_others_need_no_job(self):
        assert not needs_job(pod("Succeeded", main=ended(0)))
        assert not needs_job(pod("Running", main=RUNNING, metadata=self.taken(NOW, 30)))
        assert not needs_job(self.evicted("Succeeded", ended(0)))

    @pytest.mark.parametrize(
        "about",
        [
            {"reason": "OutOfcpu", "message": "Node didn't have enough resource"},
            {"reason": "NodeAffinity", "message": "Predicate NodeAffinity failed"},
            {"reason": "Terminated", "message": "Pod was terminated in response to shutdown."},
            {"reason": "NodeShutdown", "message": "Pod was rejected as the node is shutting down"},
        ],
    )
    def test_a_node_that_did_not_take_or_keep_it(self, about):
        assert seen(pod("Failed", **about)).disruption == ": ".join(about.values())

    @pytest.mark.parametrize("reason", ["ContainerStatusUnknown", "Unknown"])
    def test_a_node_that_was_restarted(self, reason):
        observation = seen(pod("Failed", main=ended(255, reason)))
        assert observation.disruption == f"the node found the container dead: {reason}"

    def test_what_the_pod_itself_used_up_is_no_disruption(self):
        message = "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi."
        for main in (ended(0), ended(137, "ContainerStatusUnknown")):
            observation = seen(pod("Failed", main=main, reason="Evicted", message=message))
            assert observation.phase is Phase.FAILED
            assert observation.disruption == ""

    def test_a_failure_of_the_program_is_none(self):
        assert seen(pod("Failed", main=ended(3))).disruption == ""


class TestContainersOfOthers:
    """What admission webhooks add to a pod."""

    SIDECAR: ClassVar = {"name": "proxy", "restartPolicy": "Always"}

    def with_sidecar(self, phase: str, main: dict, state: dict, **about: object) -> dict:
        thing = pod(phase, main=main, nurse=ended(0), **about)
        thing["spec"]["initContainers"] = [{"name": "init-main"}, self.SIDECAR]
        thing["status"]["initContainerStatuses"].append({"name": "proxy", "state": state})
        return thing

    def with_ordinary(self, phase: str, main: dict, state: dict, **about: object) -> dict:
        thing = pod(phase, main=main, nurse=ended(0), **about)
        thing["spec"]["containers"].append({"name": "agent"})
        thing["status"]["containerStatuses"].append({"name": "agent", "state": state})
        return thing

    @pytest.mark.parametrize("code", [143, 137, 1])
    def test_how_a_native_sidecar_obeys_says_nothing(self, code):
        """The same before and after the kubelet has ended it."""
        for phase, state in (("Running", RUNNING), ("Succeeded", ended(code))):
            thing = self.with_sidecar(phase, ended(0), state)
            assert seen(thing).exit == Exit(0, "")
            assert seen(trim(thing)) == seen(thing)

    def test_nor_after_a_failure(self):
        thing = self.with_sidecar("Failed", ended(3), ended(143))
        assert seen(thing).exit == Exit(3, "(container main) Error")

    def test_nor_if_the_program_never_ran(self):
        main = waiting("PodInitializing")
        thing = self.with_sidecar("Failed", main, ended(143), init=ended(1, message="not empty"))
        assert seen(trim(thing)).exit == Exit(1, "(container init-main) Error: not empty")

    @pytest.mark.parametrize(("main", "code"), [(ended(0), 0), (ended(3), 3)])
    def test_one_that_never_ends_is_left_behind(self, main, code):
        thing = self.with_ordinary("Running", main, RUNNING)
        grace = timedelta(seconds=10)
        early = observe_pod(thing, [], NOW + timedelta(seconds=9), foreign_grace=grace)
        assert early.phase is Phase.RUNNING
        assert waits_for_others(thing)
        late = observe_pod(thing, [], NOW + timedelta(seconds=10), foreign_grace=grace)
        assert (late.exit.code, late.lingering) == (code, True)
        assert late.notes == (
            "container agent, not of knit, did not end with the program: the pod is removed",
        )

    def test_not_before_the_log_is_complete(self):
        thing = self.with_ordinary("Running", ended(0), RUNNING)
        thing["status"]["containerStatuses"][1]["state"] = RUNNING
        assert seen(thing).phase is Phase.RUNNING
        assert not waits_for_others(thing)

    def test_one_that_could_not_even_be_started_is_left_behind_too(self):
        thing = self.with_ordinary("Pending", ended(0), waiting("ImagePullBackOff"))
        assert seen(thing).lingering

    def test_one_that_ends_in_time_is_not_remarkable(self):
        thing = self.with_ordinary("Running", ended(0), ended(0))
        assert seen(thing) == Observation(
            Phase.SUCCEEDED, exit=Exit(0, ""), image_digest="sha256:abc"
        )

    def test_one_that_fails_is_noted(self):
        """The same before and after Kubernetes calls the pod Failed because of it."""
        for phase in ("Running", "Failed"):
            observation = seen(self.with_ordinary(phase, ended(0), ended(1)))
            assert (observation.exit, observation.lingering) == (Exit(0, ""), False)
            assert observation.notes == (
                "(container agent) Error; it is not of knit, and does not count",
            )

    def test_one_that_keeps_the_program_from_starting_counts(self):
        thing = self.with_ordinary("Failed", waiting("PodInitializing"), ended(1))
        assert seen(thing).exit == Exit(1, "(container agent) Error")


class TestKilledForMemory:
    def test_a_child_that_is_killed_is_noted(self):
        """As containerd reports it: the program itself ended with 0."""
        for phase in ("Running", "Succeeded"):
            observation = seen(pod(phase, main=ended(0, "OOMKilled"), nurse=ended(0)))
            assert (observation.phase, observation.exit) == (Phase.SUCCEEDED, Exit(0, ""))
            assert observation.oom_killed
            assert observation.notes == (oom_note(),)

    def test_after_what_the_nurse_says_of_the_outputs(self):
        told = "output /a: 1 socket is not kept: s"
        thing = pod("Succeeded", main=ended(0, "OOMKilled"), nurse=ended(0, message=told))
        assert seen(thing).notes == (told, oom_note())

    def test_a_program_that_is_killed_itself_has_failed(self):
        observation = seen(pod("Failed", main=ended(137, "OOMKilled"), nurse=ended(0)))
        assert (observation.oom_killed, observation.notes) == (False, ())


class TestPodsOfOneJob:
    def test_what_may_still_write_counts(self):
        old, new = pod("Running", main=RUNNING, age=60), pod("Failed", main=ended(1), age=5)
        assert relevant_pod([old, new]) is old

    def test_then_what_was_made_last(self):
        old, new = pod("Failed", main=ended(1), age=60), pod("Failed", main=ended(2), age=5)
        assert relevant_pod([new, old]) is new


class TestJobsWithoutPods:
    def job(self, **status: object) -> dict:
        return {"metadata": {"name": "j"}, "status": status}

    def test_no_job(self):
        assert observe_job(None, []).phase is Phase.ABSENT

    def test_a_job_whose_pod_is_still_to_come(self):
        assert observe_job(self.job(), []).phase is Phase.PENDING

    @pytest.mark.parametrize(
        "status",
        [
            {"failed": 1},
            {"succeeded": 1},
            {"terminating": 1},
            {"uncountedTerminatedPods": {"failed": ["uid"]}},
            {"conditions": [{"type": "Failed", "status": "True"}]},
        ],
    )
    def test_a_job_whose_pod_was_removed(self, status):
        """Without it nobody knows whether its program was interrupted, whatever the Job counts."""
        removed = observe_job(self.job(**status), [])
        assert removed.phase is Phase.ABSENT
        assert removed.disruption == "removed from its Job before its end was seen"

    def test_a_job_that_goes_with_its_pod_is_meant_to_go(self):
        job = self.job(failed=1)
        job["metadata"]["deletionTimestamp"] = iso(NOW)
        assert observe_job(job, []) == Observation(Phase.ABSENT)

    def test_a_job_being_deleted_may_still_make_a_pod(self):
        job = self.job()
        job["metadata"]["deletionTimestamp"] = iso(NOW)
        assert observe_job(job, []).phase is Phase.PENDING

    def test_a_suspended_job(self):
        observation = observe_job(self.job() | {"spec": {"suspend": True}}, [])
        assert observation.phase is Phase.PENDING
        assert observation.start_failure.reason == "JobSuspended"
        assert observe_job(self.job() | {"spec": {"suspend": False}}, []).start_failure is None

    def test_a_job_whose_pods_are_refused(self):
        words = 'pods "x" is forbidden: error looking up service account ns/trainer: not found'
        observation = observe_job(self.job(), [WarningEvent("FailedCreate", words, NOW)])
        assert observation.phase is Phase.PENDING
        assert observation.start_failure.kind is StartFailureKind.TRANSIENT
        assert observation.start_failure.message == "there is no service account ns/trainer"


class TestNews:
    WELL = Observation(Phase.SUCCEEDED, exit=Exit(0, ""))
    TAKEN = Observation(Phase.FAILED, exit=Exit(254, "(pod p) deleted while it was running"))

    def test_a_pod_goes_forward(self):
        life = [
            None,
            *(Observation(Phase.ABSENT), Observation(Phase.PENDING), Observation(Phase.RUNNING)),
            *(self.WELL, Observation(Phase.ABSENT)),
        ]
        for before, after in pairwise(life):
            assert is_change(before, after)
            assert not is_change(after, after)

    def test_never_back(self):
        assert not is_change(self.WELL, self.TAKEN)
        assert not is_change(Observation(Phase.RUNNING), Observation(Phase.PENDING))

    def test_start_failures_come_and_go(self):
        failure = StartFailure(StartFailureKind.IMAGE, "ErrImagePull", "so")
        failing = Observation(Phase.PENDING, start_failure=failure)
        assert is_change(Observation(Phase.PENDING), failing)
        assert is_change(failing, Observation(Phase.PENDING))
