"""The adapter against an API server that refuses, forgets, hangs up and lags."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web

from knit_workflows import names
from knit_workflows.compute.base import Endpoint, Observation, Phase, RunPod, Transfer, TransferMode
from knit_workflows.compute.kubernetes import KubernetesBackend
from knit_workflows.compute.kubernetes.specs import manifests
from knit_workflows.domain.errors import (
    BackendRejected,
    BackendUnavailable,
    DataExists,
    TransferNotReady,
)
from knit_workflows.domain.plans.options import PodOptions
from knit_workflows.domain.runs.milestones import Milestone
from knit_workflows.domain.volumes import Mount, Volume, VolumeOptions
from knit_workflows.metrics.instruments import KUBERNETES_REQUESTS
from tests.unit.compute.kubernetes.conftest import merged
from tests.waiting import PATIENCE, until

POD = RunPod(
    name="worker-run-r1",
    run_id="r1",
    generation=1,
    plan_id="p1",
    image="x:1",
    inputs=(Mount("/in", Volume("data-knitid-a", "a")),),
)

VOLUME = Volume("data-knitid-a", "a")
TRANSFER = Transfer("knitid-a-read-1", VOLUME, TransferMode.READ, "s3cret")


def with_pod(api, phase: str, state: dict | None = None, name: str = "worker-run-r1") -> None:
    labels = {"knit/worker.runid": "r1", "app.kubernetes.io/instance": name}
    statuses = [{"name": "main", "state": state}] if state else []
    status = {"phase": phase, "containerStatuses": statuses}
    about = {"name": f"{name}-x", "labels": labels, "creationTimestamp": "2026-01-02T03:04:05Z"}
    spec = {"containers": [{"name": "main"}]}
    api.put("pods", {"metadata": about, "spec": spec, "status": status})


RUNNING = {"running": {}}
ENDED = {"terminated": {"exitCode": 0, "finishedAt": "2026-01-02T03:04:09Z"}}


@asynccontextmanager
async def agent(answer: int):
    """Stands in for a transfer agent that gives one answer to every upload."""

    async def handle(request: web.Request) -> web.Response:
        if request.path == "/healthz":
            return web.Response()
        assert request.headers["Authorization"] == "Bearer s3cret"
        assert not {"Content-Length", "Transfer-Encoding"} & request.headers.keys()
        return web.Response(status=answer)

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


class TestLaunch:
    async def test_twice_is_once(self, api, backend):
        await backend.launch(POD)
        assert api.requests == ["POST jobs"]
        await backend.launch(POD)
        assert len([each for each in api.objects if each[0] == "jobs"]) == 1

    async def test_a_name_taken_by_another_run_is_refused(self, api, backend):
        await backend.launch(POD)
        with pytest.raises(BackendRejected, match="belongs to another Job"):
            await backend.launch(replace(POD, generation=2))

    async def test_a_job_being_deleted_is_waited_for(self, api, backend):
        await backend.launch(POD)
        api.objects["jobs", POD.name]["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z"
        with pytest.raises(BackendUnavailable, match="being deleted"):
            await backend.launch(POD)

    @pytest.mark.parametrize("code", [400, 403, 422])
    async def test_the_servers_own_words_tell_why_it_can_never_be(self, api, backend, code):
        api.answers.append((code, "spec.containers[0]: Invalid value"))
        with pytest.raises(BackendRejected, match="Invalid value"):
            await backend.launch(POD)

    @pytest.mark.parametrize("code", [429, 500, 503])
    async def test_what_may_pass_is_worth_another_try(self, api, backend, code):
        api.answers.append((code, "later"))
        with pytest.raises(BackendUnavailable, match="later"):
            await backend.launch(POD)

    async def test_what_the_server_warns_of_is_given_and_logged_once(self, api, backend, caplog):
        fraction = 'spec.limits[memory]: fractional byte value "500m" is invalid'
        quoted = fraction.replace('"', '\\"')
        api.warnings = [f'299 - "{quoted}"', '299 - "would violate \\"restricted\\"", 299 a "b"']
        expected = (fraction, 'would violate "restricted"', "b")
        assert (await backend.launch(POD)).warnings == expected
        assert (await backend.launch(POD)).warnings == ()  # there already
        other = await backend.launch(replace(POD, name="worker-run-r2"))
        assert other.warnings == expected
        logged = [each.getMessage() for each in caplog.records]
        assert logged == [f"the API server warns: {text}" for text in expected]

    async def test_options_are_told_by_the_launch_and_by_one_that_finds_the_job(
        self, backend, settings
    ):
        """Those of the Job that is there: settings may have changed since it was made."""
        pod = replace(POD, options=PodOptions(labels={"team": "x"}))
        assert (await backend.launch(pod)).options == pod.options
        later = replace(pod, options=PodOptions(labels={"team": "y"}))
        assert (await backend.launch(later)).options == pod.options

    async def test_expired_credentials_are_read_again(self, api, backend):
        api.answers.append((401, "expired"))
        await backend.launch(POD)
        assert ("jobs", POD.name) in api.objects

    async def test_credentials_that_are_being_replaced_are_waited_for(self, api, backend, settings):
        """A kubeconfig that is being written is empty for a moment; nothing is refused for good."""
        whole = settings.kubeconfig.read_text()
        settings.kubeconfig.write_text("")
        api.answers.append((401, "expired"))
        with pytest.raises(BackendUnavailable, match="no credentials for the cluster"):
            await backend.launch(POD)
        settings.kubeconfig.write_text(whole)
        api.answers.append((401, "expired"))
        await backend.launch(POD)

    async def test_a_plugin_that_gives_no_token_this_time_makes_nobody_anonymous(
        self, api, backend, settings
    ):
        await backend.launch(POD)
        anonymous = settings.kubeconfig.read_text().replace("{token: secret}", "{}")
        settings.kubeconfig.write_text(anonymous)
        api.answers.append((401, "expired"))
        with pytest.raises(BackendUnavailable, match="gave no token"):
            await backend.launch(POD)

    async def test_nobody_answers(self, api, settings, tmp_path):
        elsewhere = tmp_path / "elsewhere"
        elsewhere.write_text(settings.kubeconfig.read_text().replace(api.url, "http://127.0.0.1:1"))
        backend = KubernetesBackend(settings.model_copy(update={"kubeconfig": elsewhere}))
        await backend.open()
        with pytest.raises(BackendUnavailable):
            await backend.launch(POD)
        await backend.aclose()

    async def test_one_that_is_closed_is_away(self, settings):
        """What was still under way tries again, on whoever is there by then."""
        backend = KubernetesBackend(settings)
        await backend.open()
        await backend.aclose()
        with pytest.raises(BackendUnavailable, match="not open"):
            await backend.launch(POD)

    async def test_no_credentials(self, settings, tmp_path):
        with pytest.raises(BackendRejected, match="credentials"):
            await KubernetesBackend(
                settings.model_copy(update={"kubeconfig": tmp_path / "none"})
            ).open()


class TestObserve:
    async def test_absent_then_pending_then_what_the_pod_says(self, api, backend):
        assert (await backend.observe(POD.name)).phase is Phase.ABSENT
        await backend.launch(POD)
        assert (await backend.observe(POD.name)).phase is Phase.PENDING
        with_pod(api, "Running", RUNNING)
        assert (await backend.observe(POD.name)).phase is Phase.RUNNING

    async def test_a_pod_without_its_job_may_still_write(self, api, backend):
        with_pod(api, "Running", RUNNING)
        assert (await backend.observe(POD.name)).phase is Phase.RUNNING

    async def test_an_old_pending_pod_is_asked_for_its_events(self, api, backend):
        with_pod(api, "Pending", {"waiting": {"reason": "ContainerCreating"}})
        event = {
            "metadata": {"name": "e"},
            "involvedObject": {"kind": "Pod", "name": "worker-run-r1-x"},
            "type": "Warning",
            "reason": "FailedMount",
            "message": "no server",
        }
        api.put("events", event)
        assert (await backend.observe(POD.name)).start_failure.reason == "FailedMount"

    async def test_the_job_of_a_deleted_pod_is_looked_at(self, api, backend):
        """By a watch too, whose cache has only the pod."""
        await backend.launch(POD)
        with_pod(api, "Succeeded", ENDED)
        about = api.objects["pods", f"{POD.name}-x"]["metadata"]
        about |= {"deletionTimestamp": "2026-01-02T03:04:09Z", "deletionGracePeriodSeconds": 0}
        seen = await backend.observe(POD.name)
        assert (seen.phase, seen.disruption) == (Phase.FAILED, "deleted while it was running")
        async with aclosing(backend.watch(POD.name)) as watch:
            assert await anext(watch) == seen
        api.remove("jobs", POD.name)
        assert (await backend.observe(POD.name)).disruption == ""

    async def test_a_pod_that_was_removed_from_its_job(self, api, backend):
        await backend.launch(POD)
        api.objects["jobs", POD.name]["status"] = {"failed": 1}
        seen = await backend.observe(POD.name)
        assert seen.phase is Phase.ABSENT
        assert seen.disruption == "removed from its Job before its end was seen"

    async def test_events_only_explain(self, api, backend):
        with_pod(api, "Pending", {"waiting": {"reason": "ContainerCreating"}})
        api.answers_to["GET events"] = (403, "events is forbidden")
        assert (await backend.observe(POD.name)).phase is Phase.PENDING

    async def test_a_lost_right_to_look_is_no_verdict_about_runs(self, api, backend):
        api.answers.append((403, "pods is forbidden"))
        with pytest.raises(BackendUnavailable, match="forbidden"):
            await backend.observe(POD.name)


class TestStopAndRelease:
    async def test_both_are_fine_with_nothing_there(self, backend):
        await backend.stop(POD.name, grace=timedelta(0))
        await backend.release(POD.name)

    async def test_stop_deletes_pods_then_the_job(self, api, backend):
        await backend.launch(POD)
        with_pod(api, "Running", RUNNING)
        with_pod(api, "Running", RUNNING, name="worker-run-other")
        await backend.stop(POD.name, grace=timedelta(seconds=5))
        assert set(api.objects) == {("pods", "worker-run-other-x")}
        assert api.requests[-2:] == ["DELETE pods", f"DELETE jobs/{POD.name}"]

    async def test_release_removes_a_pod_whose_job_is_gone(self, api, backend):
        with_pod(api, "Succeeded", ENDED)
        await backend.release(POD.name)
        assert not api.objects

    async def test_run_pods_are_jobs_with_our_label(self, api, backend):
        await backend.launch(POD)
        api.put("jobs", {"metadata": {"name": "foreign"}})
        assert await backend.run_pods() == [POD.name]

    async def test_more_than_a_page_of_run_pods(self, api, backend):
        for number in range(1001):
            labels = {"knit/worker.runid": str(number)}
            api.put("jobs", {"metadata": {"name": f"j{number}", "labels": labels}})
        assert len(await backend.run_pods()) == 1001
        assert api.count("GET jobs") == 3

    async def test_a_list_that_changed_too_much_between_two_pages_is_asked_for_again(
        self, api, backend
    ):
        for number in range(501):
            labels = {"knit/worker.runid": str(number)}
            api.put("jobs", {"metadata": {"name": f"j{number}", "labels": labels}})
        api.oldest = 1000
        with pytest.raises(BackendUnavailable, match="has to be read again"):
            await backend.run_pods()
        assert api.count("GET jobs") == 2


class TestVolumes:
    async def test_create_and_delete_may_be_repeated(self, api, backend):
        for _ in range(2):
            await backend.create_volume(VOLUME)
        assert ("persistentvolumeclaims", VOLUME.name) in api.objects
        for _ in range(2):
            await backend.delete_volume(VOLUME)
        assert not api.objects

    async def test_what_a_claim_asks_for_is_told_as_the_server_has_it(self, backend, settings):
        """Also of one that was made with other settings; the default class is the server's word."""
        wanted = replace(VOLUME, options=VolumeOptions(size="5Gi"))
        first = await backend.create_volume(wanted)
        assert first == VolumeOptions(settings.storage_class, "ReadWriteMany", "5Gi")
        assert await backend.create_volume(VOLUME) == first
        claim = manifests.volume_claim(VOLUME, settings) | {}
        claim["spec"]["storageClassName"] = "cluster-default"
        assert manifests.wanted_of(claim).storage_class == "cluster-default"

    @pytest.mark.patient
    async def test_a_claim_on_its_way_out_is_not_taken_for_a_new_one(self, api, backend):
        await backend.create_volume(VOLUME)
        claim = api.objects["persistentvolumeclaims", VOLUME.name]
        claim["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z"
        with pytest.raises(BackendUnavailable, match="being deleted"):
            await backend.create_volume(VOLUME)

    async def test_a_claim_on_its_way_out_tells_no_origin(self, api, backend):
        knit_id = "10000000-0000-4000-8000-000000000000"
        going = Volume(names.volume(knit_id), knit_id, origin="{}")
        await backend.create_volume(going)
        assert [one.name async for one in backend.own_volumes(with_origins=True)] == [going.name]
        claim = api.objects["persistentvolumeclaims", going.name]
        claim["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z"
        assert [one async for one in backend.own_volumes(with_origins=True)] == []
        assert [one.name async for one in backend.own_volumes()] == [going.name]

    async def test_a_claim_that_cannot_be_read_any_more_is_missing(self, api, backend):
        """Kept only for the pod that mounts it, or without the volume that was bound to it."""
        await backend.create_volume(VOLUME)
        assert await backend.missing_volumes([VOLUME]) == []
        claim = api.objects["persistentvolumeclaims", VOLUME.name]
        claim["status"] = {"phase": "Lost"}
        assert await backend.missing_volumes([VOLUME]) == [VOLUME]
        claim["status"] = {"phase": "Bound"}
        claim["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z"
        assert await backend.missing_volumes([VOLUME]) == [VOLUME]


class TestWatch:
    async def collect(self, backend, into: list, name: str = POD.name) -> None:
        async with aclosing(backend.watch(name)) as observations:
            async for observation in observations:
                into.append(observation.phase)

    @pytest.fixture
    async def phases(self, backend):
        seen: list[Phase] = []
        task = asyncio.create_task(self.collect(backend, seen))
        yield seen
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    @pytest.fixture
    def settings(self, settings, request):
        """Where it matters that nobody asks again, nobody does so for a long time."""
        if request.node.originalname != "test_each_change_is_told_without_asking_again":
            return settings
        return settings.model_copy(update={"pending_resync_period": timedelta(hours=1)})

    async def test_each_change_is_told_without_asking_again(self, api, backend, phases):
        await backend.launch(POD)
        await until(lambda: phases and api.watches == 2)
        # The watch may have looked before the Job was there: Pods are what it hears of.
        with_pod(api, "Pending", {"waiting": {"reason": "ContainerCreating"}})
        await until(lambda: phases[-1] is Phase.PENDING)
        with_pod(api, "Running", RUNNING)
        await until(lambda: Phase.RUNNING in phases)
        asked = len(api.requests)
        with_pod(api, "Succeeded", ENDED)
        await until(lambda: phases[-1] is Phase.SUCCEEDED)
        assert len(api.requests) == asked
        api.remove("pods", "worker-run-r1-x")
        api.remove("jobs", POD.name)
        await until(lambda: phases[-1] is Phase.ABSENT)

    @pytest.mark.patient
    async def test_containers_of_others_are_left_behind_after_a_while(self, api, settings):
        """Without any change that would tell."""
        grace = timedelta(seconds=0.5)
        backend = KubernetesBackend(settings.model_copy(update={"foreign_container_grace": grace}))
        await backend.open()
        ended = datetime.now(UTC).isoformat()
        with_pod(api, "Running", {"terminated": {"exitCode": 0, "finishedAt": ended}})
        pod = api.objects["pods", f"{POD.name}-x"]
        pod["spec"]["containers"].append({"name": "agent"})
        async with asyncio.timeout(PATIENCE), aclosing(backend.watch(POD.name)) as watch:
            async for last in watch:
                if last.lingering:
                    break
        assert (last.phase, last.lingering) == (Phase.SUCCEEDED, True)
        await backend.aclose()

    @pytest.mark.patient
    async def test_a_log_that_never_ends_is_given_up_after_a_while(self, api, settings):
        """Without any change that would tell."""
        often = {"resync_period": timedelta(seconds=0.1)}
        backend = KubernetesBackend(settings.model_copy(update=often))
        await backend.open()
        nearly = datetime.now(UTC) - timedelta(minutes=10) + timedelta(seconds=2)
        ended = {"exitCode": 1, "finishedAt": nearly.isoformat()}
        with_pod(api, "Running", {"terminated": ended})
        pod = api.objects["pods", f"{POD.name}-x"]
        pod["spec"]["containers"].append({"name": "nurse"})
        pod["status"]["containerStatuses"].append({"name": "nurse", "state": RUNNING})
        async with asyncio.timeout(PATIENCE), aclosing(backend.watch(POD.name)) as watch:
            async for last in watch:
                if last.lingering:
                    break
        assert (last.phase, last.lingering) == (Phase.FAILED, True)
        await backend.aclose()

    async def test_a_broken_watch_goes_on(self, api, backend, phases):
        with_pod(api, "Running", RUNNING)
        await until(lambda: phases and api.watches == 2)
        api.hang_up()  # which also keeps the old watches from telling of what follows
        with_pod(api, "Succeeded", ENDED)
        await until(lambda: phases[-1] is Phase.SUCCEEDED)

    @pytest.mark.patient
    async def test_a_forgotten_version_is_listed_anew(self, api, backend, phases):
        with_pod(api, "Running", RUNNING)
        await until(lambda: phases and api.watches == 2)
        api.hang_up()
        with_pod(api, "Succeeded", ENDED)
        api.forget()
        await until(lambda: phases[-1] is Phase.SUCCEEDED)

    async def test_a_version_may_be_refused_before_the_first_change(self, api, backend, phases):
        with_pod(api, "Running", RUNNING)
        api.answers_to["GET pods?watch"] = (410, "too old")
        await until(lambda: phases and api.count("GET pods?watch"))
        del api.answers_to["GET pods?watch"]
        await until(lambda: api.watches == 2)
        with_pod(api, "Succeeded", ENDED)
        await until(lambda: phases[-1] is Phase.SUCCEEDED)

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            (b'{"type":"ERROR","object":{"code":500,"message":"etcd"}}', "the watch broke: etcd"),
            (b"<html>a proxy's own page</html>", "the watch broke: Expecting value"),
        ],
    )
    async def test_why_a_watch_broke_is_logged(self, api, backend, phases, caplog, line, words):
        """And it goes on."""
        with_pod(api, "Running", RUNNING)
        api.watched.extend([line] * 2)
        await until(lambda: phases and words in caplog.text)
        with_pod(api, "Succeeded", ENDED)
        await until(lambda: phases[-1] is Phase.SUCCEEDED)

    @pytest.mark.patient
    async def test_an_outage_is_borne_for_a_while_then_told(self, api, settings):
        backend = KubernetesBackend(
            settings.model_copy(update={"unavailable_after": timedelta(seconds=1)})
        )
        await backend.open()
        api.answers.extend([(503, "away")] * 50)
        with pytest.raises(BackendUnavailable):
            await self.collect(backend, [])
        assert api.count("GET pods") > 1
        await backend.aclose()

    @pytest.mark.patient
    async def test_a_short_outage_is_not_told(self, api, backend, phases):
        with_pod(api, "Running", RUNNING)
        api.answers.extend([(503, "away")] * 2)
        await until(lambda: Phase.RUNNING in phases)

    @pytest.mark.parametrize("started", ["03:04:09", "03:04:06"], ids=["long", "short"])
    async def test_only_a_long_start_is_explained_by_the_events_of_the_pull(
        self, api, backend, started
    ):
        with_pod(api, "Succeeded", {"terminated": {}})
        pod = api.objects["pods", f"{POD.name}-x"]
        times = {"startedAt": f"2026-01-02T{started}Z", "finishedAt": "2026-01-02T03:04:11Z"}
        pod["status"]["containerStatuses"][0]["state"]["terminated"] = {"exitCode": 0, **times}
        since = {"lastTransitionTime": "2026-01-02T03:04:05Z"}
        pod["status"]["conditions"] = [{"type": "Initialized", "status": "True", **since}]
        about = {"kind": "Pod", "name": f"{POD.name}-x", "fieldPath": "spec.containers{main}"}
        told = 'Successfully pulled image "a" in 2s (3.5s including waiting).'
        event = {"reason": "Pulled", "type": "Normal", "message": told, "involvedObject": about}
        api.put("events", {"metadata": {"name": "e"}, **event})
        async with asyncio.timeout(PATIENCE), aclosing(backend.watch(POD.name)) as watch:
            seen = await anext(watch)
        pulled = seen.timeline.get(Milestone.PULLED)
        if started == "03:04:09":
            begun = seen.timeline[Milestone.INITIALIZED]
            assert pulled == begun + timedelta(seconds=3.5)
        else:
            assert pulled is None

    @pytest.mark.patient
    async def test_many_watches_share_one_connection(self, api, backend):
        seen: list[Phase] = []
        tasks = []
        for number in range(200):
            with_pod(api, "Running", RUNNING, name=f"w{number}")
            tasks.append(asyncio.create_task(self.collect(backend, seen, f"w{number}")))
        await until(lambda: len(seen) >= 200)
        await until(lambda: api.watches == 2)
        for number in range(200):
            with_pod(api, "Succeeded", ENDED, name=f"w{number}")
        await until(lambda: seen.count(Phase.SUCCEEDED) == 200)
        assert api.count("GET pods?watch") == 1
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class TestRequests:
    """What a watch costs the API server, once the informers of its process are up."""

    @pytest.fixture
    def settings(self, settings):
        hour = timedelta(hours=1)
        return settings.model_copy(update={"pending_resync_period": hour, "resync_period": hour})

    @pytest.fixture
    async def seen(self, api, backend):
        """What a watch of POD observes, which another watch has gone before."""
        seen: list[Observation] = []

        async def watched(name: str, into: list[Observation]) -> None:
            async with aclosing(backend.watch(name)) as observations:
                async for observation in observations:
                    into.append(observation)

        before = asyncio.create_task(watched("another", []))
        await until(lambda: api.watches == 2 and "GET jobs/another" in api.requests)
        await backend.launch(POD)
        tasks = [before]
        api.requests.clear()

        async def begin() -> list[Observation]:
            tasks.append(asyncio.create_task(watched(POD.name, seen)))
            await until(lambda: seen)
            return seen

        yield begin
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def test_a_run_needs_a_look_at_its_job_and_no_more(self, api, seen):
        observations = await seen()
        with_pod(api, "Running", RUNNING)
        await until(lambda: observations[-1].phase is Phase.RUNNING)
        with_pod(api, "Succeeded", ENDED)
        await until(lambda: observations[-1].phase is Phase.SUCCEEDED)
        assert observations[0].phase is Phase.PENDING
        assert api.requests == [f"GET jobs/{POD.name}"]

    async def test_what_is_asked_is_counted(self, api, backend, seen):
        def counted() -> dict[tuple[str, str, str], float]:
            [metric] = KUBERNETES_REQUESTS.collect()
            return {
                (each.labels["verb"], each.labels["kind"], each.labels["status"]): each.value
                for each in metric.samples
            }

        before = counted()
        await seen()
        await backend.release(POD.name)
        api.answers.append((503, "later"))
        with pytest.raises(BackendUnavailable):
            await backend.launch(replace(POD, name="worker-run-r2"))
        found = {key: n - before.get(key, 0) for key, n in counted().items()}
        found.pop(("read", "Job", "404"), None)  # the watch may look once more at what has gone
        assert {key: n for key, n in found.items() if n} == {
            ("read", "Job", "200"): 1,
            ("delete", "Job", "200"): 1,
            ("create", "Job", "503"): 1,
        }

    async def test_a_pod_that_is_known_needs_none(self, api, backend, seen):
        """As when a watch goes on that another activity has begun."""
        with_pod(api, "Running", RUNNING)
        await until(lambda: backend._pods.get(POD.name))
        assert [one.phase for one in await seen()] == [Phase.RUNNING]
        assert api.requests == []

    @pytest.mark.parametrize(
        ("change", "asked"),
        [
            ({}, []),
            ({"status": {"phase": "Succeeded", "containerStatuses": []}}, ["GET pods"]),
            ({"metadata": {"deletionTimestamp": "2026-01-02T03:04:09Z"}}, ["GET pods"]),
            ({"metadata": {"uid": "another"}}, ["GET pods"]),
        ],
        ids=["goes on", "ended", "goes", "another by that name"],
    )
    async def test_a_pod_that_is_known_is_asked_for_by_its_name(
        self, api, backend, seen, change, asked
    ):
        """A list goes through all pods; it is for where there may be another one."""
        with_pod(api, "Running", RUNNING)
        await until(lambda: backend._pods.get(POD.name))
        pod = f"{POD.name}-x"
        api.objects["pods", pod] = merged(api.objects["pods", pod], change)  # no watch tells it
        await backend.observe(POD.name)
        assert api.requests[:2] == [f"GET pods/{pod}", *asked]

    async def test_why_a_job_has_no_pod_is_heard_of(self, api, seen):
        """Without a request: events are watched too."""
        observations = await seen()
        event = {
            "metadata": {"name": "e"},
            "type": "Warning",
            "reason": "FailedCreate",
            "message": 'pods "x" is forbidden: exceeded quota: q, requested: pods=1',
            "involvedObject": {"kind": "Job", "name": POD.name},
        }
        api.put("events", event)
        await until(lambda: observations[-1].start_failure is not None)
        assert api.requests == [f"GET jobs/{POD.name}"]

    async def test_a_pod_that_was_removed_is_looked_for_before_that_is_believed(self, api, seen):
        api.objects["jobs", POD.name]["status"] = {"failed": 1}
        observations = await seen()
        assert observations[-1].disruption == "removed from its Job before its end was seen"
        assert f"GET jobs/{POD.name}" in api.requests
        assert "GET pods" in api.requests

    async def test_a_pod_that_the_watch_does_not_show(self, api, seen):
        """The Job counts it, so it is asked for."""
        api.objects["jobs", POD.name]["status"] = {"active": 1}
        with_pod(api, "Running", RUNNING)
        api._history.pop()  # no watch will tell of it
        assert [one.phase for one in await seen()] == [Phase.RUNNING]


class TestTransfers:
    @pytest.fixture(autouse=True)
    def claim(self, api) -> None:
        api.put("persistentvolumeclaims", {"metadata": {"name": VOLUME.name}})

    async def test_without_its_claim_no_pod_waits(self, api, backend):
        """It would wait for ever, and its client with it."""
        api.remove("persistentvolumeclaims", VOLUME.name)
        with pytest.raises(BackendRejected, match=f"has no claim {VOLUME.name}"):
            await backend.open_transfer(TRANSFER)
        assert api.count("POST pods") == 0

    async def test_the_pod_then_its_secret_are_made_once(self, api, backend):
        for _ in range(2):
            with pytest.raises(TransferNotReady):
                await backend.open_transfer(TRANSFER)
        assert api.count("POST pods") == api.count("POST secrets") == 1
        secret = api.objects["secrets", TRANSFER.name]
        assert secret["metadata"]["ownerReferences"][0]["uid"] == f"uid-{TRANSFER.name}"

    def put(self, api, **status: object) -> None:
        api.objects["pods", TRANSFER.name]["status"] = status

    async def opening(self, backend) -> None:
        with pytest.raises(TransferNotReady):
            await backend.open_transfer(TRANSFER)

    @pytest.mark.patient
    async def test_a_ready_pod_is_an_open_endpoint(self, api, backend):
        await self.opening(backend)
        ready = [{"type": "Ready", "status": "True"}]
        self.put(api, phase="Running", podIP="10.1.2.3", conditions=ready)
        assert (await backend.open_transfer(TRANSFER)).url == "http://10.1.2.3:18082/"
        self.put(api, phase="Running", podIP="fd00::1", conditions=ready)
        assert (await backend.open_transfer(TRANSFER)).url == "http://[fd00::1]:18082/"

    @pytest.mark.parametrize("form", ["{pv}", "{namespace}-{claim}-{pv}"])
    async def test_a_volume_that_this_machine_has_is_read_without_a_pod(
        self, api, settings, tmp_path, form
    ):
        """As soon as it is bound and there; what is written has a pod all the same."""
        folders = f"{tmp_path}/{form}"
        backend = KubernetesBackend(settings.model_copy(update={"volume_folders": folders}))
        await backend.open()
        claim = {"metadata": {"name": VOLUME.name}, "spec": {"volumeName": "pv-1"}}
        api.put("persistentvolumeclaims", claim)
        folder = Path(folders.format(pv="pv-1", claim=VOLUME.name, namespace="ns"))
        folder.mkdir()
        await self.opening(backend)
        claim["status"] = {"phase": "Bound"}
        assert await backend.open_transfer(TRANSFER) == Endpoint(folder.as_uri())
        with pytest.raises(TransferNotReady):
            await backend.open_transfer(replace(TRANSFER, mode=TransferMode.WRITE, name="w"))
        folder.rmdir()
        await self.opening(backend)
        await backend.aclose()

    async def test_a_running_pod_is_asked_itself(self, api, backend):
        await self.opening(backend)
        self.put(api, phase="Running", podIP="127.0.0.1")
        await self.opening(backend)

    async def test_an_endpoint_that_does_not_open_says_what_its_claim_says(self, api, backend):
        """By events and claims, which its pod does not mention; not if that is young."""
        await self.opening(backend)
        unbound = {
            "type": "PodScheduled",
            "status": "False",
            "message": "pod has unbound immediate PersistentVolumeClaims",
        }
        self.put(api, phase="Pending", conditions=[unbound])
        asked = api.count("GET events")
        await self.opening(backend)
        assert api.count("GET events") == asked
        old = {"creationTimestamp": "2026-01-02T03:04:05Z"}
        api.objects["pods", TRANSFER.name]["metadata"].update(old)
        about = {"kind": "PersistentVolumeClaim", "name": VOLUME.name}
        told = {"type": "Warning", "reason": "ProvisioningFailed", "message": "no such class"}
        api.put("events", {"metadata": {"name": "e"}, "involvedObject": about, **told})
        with pytest.raises(TransferNotReady, match="its claim data-knitid-a: no such class"):
            await backend.open_transfer(TRANSFER)
        api.remove("events", "e")
        self.put(api, phase="Pending")
        with pytest.raises(TransferNotReady, match=r"NotScheduled: .*data-knitid-a is Pending"):
            await backend.open_transfer(TRANSFER)

    async def test_an_endpoint_that_is_just_closing_is_waited_for(self, api, backend):
        await self.opening(backend)
        closing = {"deletionTimestamp": "2026-01-02T03:04:05Z"}
        api.objects["pods", TRANSFER.name]["metadata"].update(closing)
        with pytest.raises(TransferNotReady, match="is being deleted"):
            await backend.open_transfer(TRANSFER)

    @pytest.mark.parametrize("content", [False, True])
    async def test_an_endpoint_to_content_is_not_opened_for_writing(self, api, settings, content):
        async with agent(409 if content else 411) as port:
            backend = KubernetesBackend(settings.model_copy(update={"transfer_port": port}))
            await backend.open()
            writing = replace(TRANSFER, mode=TransferMode.WRITE)
            await self.opening(backend)
            self.put(api, phase="Running", podIP="127.0.0.1")
            if content:
                with pytest.raises(DataExists):
                    await backend.open_transfer(writing)
            else:
                assert (await backend.open_transfer(writing)).url == f"http://127.0.0.1:{port}/"
            await backend.aclose()

    async def test_an_image_that_cannot_be_had_is_final(self, api, backend):
        await self.opening(backend)
        waiting = {"waiting": {"reason": "ErrImagePull", "message": "not found"}}
        self.put(api, phase="Pending", containerStatuses=[{"name": "dataagt", "state": waiting}])
        with pytest.raises(BackendRejected, match="not found"):
            await backend.open_transfer(TRANSFER)

    async def test_a_missing_secret_is_made_good(self, api, backend):
        await self.opening(backend)
        api.remove("secrets", TRANSFER.name)
        waiting = {"waiting": {"reason": "CreateContainerConfigError", "message": "secret"}}
        self.put(api, phase="Pending", containerStatuses=[{"name": "dataagt", "state": waiting}])
        await self.opening(backend)
        assert ("secrets", TRANSFER.name) in api.objects

    async def test_an_endpoint_that_closed_itself_is_opened_anew(self, api, backend):
        await self.opening(backend)
        self.put(api, phase="Succeeded", containerStatuses=[{"name": "dataagt", "state": ENDED}])
        await self.opening(backend)
        assert ("pods", TRANSFER.name) not in api.objects
        await self.opening(backend)
        assert ("pods", TRANSFER.name) in api.objects

    async def test_a_broken_agent_is_final(self, api, backend):
        await self.opening(backend)
        broken = {"terminated": {"exitCode": 1, "reason": "Error", "message": "no such folder"}}
        self.put(api, phase="Failed", containerStatuses=[{"name": "dataagt", "state": broken}])
        with pytest.raises(BackendRejected, match="no such folder"):
            await backend.open_transfer(TRANSFER)

    async def test_what_is_written_has_the_time_to_be_undone(self, api, backend):
        """The grace of the pod's own, 40 s; a reader has nothing to undo."""
        for transfer in (TRANSFER, replace(TRANSFER, mode=TransferMode.WRITE, name="w")):
            await backend.close_transfer(transfer)
        assert api.deletions == [{"gracePeriodSeconds": 1}, {}]

    async def test_closing_twice_is_fine(self, api, backend):
        await self.opening(backend)
        for _ in range(2):
            await backend.close_transfer(TRANSFER)
        assert ("pods", TRANSFER.name) not in api.objects


async def test_prerequisites_may_be_there(api, backend):
    for _ in range(2):
        await backend.ensure_prerequisites()
    assert {kind for kind, _ in api.objects} == {
        "serviceaccounts",
        "roles",
        "rolebindings",
    }
