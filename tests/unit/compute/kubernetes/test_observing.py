"""What pods, Jobs and events mean."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from knit_workflows.compute.base import Observation, Phase, StartFailure, StartFailureKind
from knit_workflows.compute.kubernetes.observing import (
    is_change,
    observe_job,
    observe_pod,
    relevant_pod,
    trim,
)
from knit_workflows.compute.kubernetes.start_failures import WarningEvent
from knit_workflows.domain.runs import Exit

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


def seen(thing: dict, *warnings: WarningEvent):
    return observe_pod(thing, warnings, NOW)


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
        assert observation.ended_at is None

    def test_succeeded(self):
        observation = seen(pod("Succeeded", main=ended(0), nurse=ended(0)))
        assert observation.phase is Phase.SUCCEEDED
        assert observation.exit == Exit(0, "")
        assert observation.ended_at == NOW
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

    def test_pods_are_cut_down_without_changing_what_is_seen(self):
        whole = pod("Failed", main=ended(3))
        whole["spec"]["nodeName"] = "n"
        whole["metadata"]["managedFields"] = ["much"]
        assert seen(trim(whole)) == seen(whole)
        assert "nodeName" not in trim(whole)["spec"]

    def test_succeeded_before_the_kubelet_has_tidied_up(self):
        observation = seen(pod("Running", main=ended(0), nurse=ended(0)))
        assert observation.phase is Phase.SUCCEEDED
        assert observation.exit == Exit(0, "")

    def test_a_failure_waits_for_its_reasons(self):
        assert seen(pod("Running", main=ended(137), nurse=ended(0))).phase is Phase.RUNNING


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
        assert seen(thing).ended_at is None

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
        about = self.deleted(NOW + timedelta(seconds=1), 0)
        assert seen(pod("Succeeded", main=ended(0), metadata=about)).phase is Phase.SUCCEEDED

    def test_a_drained_node_is_told(self):
        thing = pod(
            "Failed",
            main=ended(143),
            metadata=self.deleted(NOW - timedelta(seconds=5), 30),
            conditions=[
                {
                    "type": "DisruptionTarget",
                    "status": "True",
                    "reason": "EvictionByEvictionAPI",
                    "message": "Eviction API: evicting",
                }
            ],
        )
        assert seen(thing).exit == Exit(
            143,
            "(pod p) EvictionByEvictionAPI: Eviction API: evicting; "
            "(container main) killed by signal 15 (SIGTERM)",
        )

    def test_a_pod_being_deleted_is_still_running(self):
        thing = pod("Running", main=RUNNING, metadata=self.deleted(NOW, 30))
        assert seen(thing).phase is Phase.RUNNING


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
        assert observe_job(self.job(**status), []).phase is Phase.ABSENT

    def test_a_job_being_deleted_may_still_make_a_pod(self):
        job = self.job()
        job["metadata"]["deletionTimestamp"] = iso(NOW)
        assert observe_job(job, []).phase is Phase.PENDING

    def test_a_job_whose_pods_are_refused(self):
        words = 'pods "x" is forbidden: error looking up service account ns/trainer: not found'
        observation = observe_job(self.job(), [WarningEvent("FailedCreate", words, NOW)])
        assert observation.phase is Phase.PENDING
        assert observation.start_failure.kind is StartFailureKind.UNSCHEDULABLE
        assert observation.start_failure.message == words


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
