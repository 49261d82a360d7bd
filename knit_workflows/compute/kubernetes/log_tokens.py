"""The token of a log reader whose pod has a service account of its Plan.

The kubelet makes tokens of the pod's own account only. So knit asks for one of the account that may
read logs (`TokenRequest`), which is valid as long as a Secret that belongs to the Job: it ends with
the Job, and its time is limited all the same.
"""

from __future__ import annotations

from knit_workflows.compute.base import RunPod
from knit_workflows.compute.kubernetes.api.objects import JsonObject
from knit_workflows.compute.kubernetes.api.server import ApiServer
from knit_workflows.compute.kubernetes.specs import log_token
from knit_workflows.domain.errors import BackendRejected, BackendUnavailable
from knit_workflows.settings import KubernetesSettings


async def give_log_token(
    server: ApiServer, pod: RunPod, job: JsonObject, settings: KubernetesSettings
) -> None:
    """Makes the Secret for which the pod of `job` waits; nothing if it needs none.

    A second call finds the Secret of the first, which nobody can read back or change: knit has no
    right to.

    Raises:
        BackendUnavailable: the account is not there, or knit may not ask for its tokens.
    """
    if not log_token.is_needed(pod, settings):
        return
    await server.create("Secret", log_token.anchor(pod, job, settings))
    account = settings.log_service_account
    try:
        token = await server.request_token(account, log_token.token_request(pod))
    except BackendRejected as refused:
        raise BackendUnavailable(
            f"no token to read the log with, of the service account {account}: {refused.reason}",
            advice="apply what `python -m knit_workflows.compute.kubernetes` prints, or upgrade "
            "the chart: it has the account and the right to ask for its tokens",
            see=pod.run_id,
        ) from refused
    await server.create("Secret", log_token.secret(pod, job, token, settings))
