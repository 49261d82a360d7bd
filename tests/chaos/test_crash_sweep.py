"""A Run survives kill -9 of its worker after any event of its history.

Over both paths: without hooks, and with hooks in force. `make test` takes some moments, `make soak`
every one (KNIT_SWEEP_MOMENTS).
"""

from __future__ import annotations

from pathlib import Path

import pytest
from temporalio.client import Client

from knit_workflows.compute.local import LocalBackend
from knit_workflows.domain.volumes import Volume
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.settings import LocalSettings
from tests.chaos.moments import MOST
from tests.chaos.run_sweep import SHORT, carry_out, carry_out_locally, sweep
from tests.contract.compute.kubernetes_adapter import kubernetes_adapter
from tests.receiver import receiver

pytestmark = pytest.mark.timeout(7200)


@pytest.mark.engine
@pytest.mark.slow
async def test_the_local_back_end_survives(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path
) -> None:
    """The task runs once, its result and whole log are found."""
    await carry_out_locally(postgres, temporal_client, tmp_path, SHORT)


@pytest.mark.engine
@pytest.mark.slow
async def test_with_hooks_in_force(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path
) -> None:
    """It ends as an undisturbed one does, and every hook was called as often as is promised."""
    state = tmp_path / "state"
    compute = {
        "KNIT_COMPUTE__KIND": "local",
        "KNIT_COMPUTE__LOCAL__STATE": str(state),
        "KNIT_HOOKS__ALLOW_LOOPBACK": "true",
    }
    backend = LocalBackend(LocalSettings(state=state))

    async def folder_of(volume: Volume) -> Path:
        return state / "volumes" / volume.name

    with receiver() as hooks:
        async with sweep(
            *(postgres, temporal_client, compute, tmp_path, backend, folder_of, "host/sh:1"),
            SHORT,
            hooks,
        ) as swept:
            await carry_out(swept, MOST)


@pytest.mark.cluster
async def test_the_kubernetes_back_end_survives(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path
) -> None:
    """On the real node: one Job per Run, its task runs once, nothing of it is left."""
    async with kubernetes_adapter() as adapter:
        settings = adapter.settings
        compute = {
            "KNIT_COMPUTE__KIND": "kubernetes",
            "KNIT_COMPUTE__KUBERNETES__KUBECONFIG": str(settings.kubeconfig),
            "KNIT_COMPUTE__KUBERNETES__KUBE_NAMESPACE": settings.kube_namespace,
            "KNIT_COMPUTE__KUBERNETES__POD_IMAGE": settings.pod_image,
        }
        async with sweep(
            postgres,
            temporal_client,
            compute,
            tmp_path,
            adapter.backend,
            adapter.cluster.folder,
            adapter.image,
            SHORT,
        ) as swept:
            await carry_out(swept)
