"""Who knit is to the API server: where that is, whom it trusts, and the token of each request.

In a pod this needs two variables and two files, which Kubernetes documents. Only a kubeconfig, with
its plugins and providers, is read by the client library: that alone costs a process 10 MiB.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from knit_workflows.domain.errors import BackendRejected

ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds the token of its service account and the cluster's authority."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What requests need to reach the API server and to be let in."""

    server: str
    """Its URL, without a slash at the end."""
    tls: ssl.SSLContext
    authorization: Callable[[], Awaitable[str | None]]
    """Gives the header of the next request; tokens are rotated. None: the certificate says it."""
    server_name: str | None = None
    """The name in the server's certificate, if not that of its URL."""
    proxy: str | None = None


def of_service_account(
    variables: Mapping[str, str] = os.environ, folder: Path = ACCOUNT
) -> Credentials:
    """Gives those of the pod in which this process runs.

    Raises:
        BackendRejected: it runs in no pod, or in one without a service account's token.
    """
    host, port = (variables.get(f"KUBERNETES_SERVICE_{part}") for part in ("HOST", "PORT"))
    if not host or not port:
        raise no_credentials("this process runs in no pod")

    async def authorization() -> str | None:
        # Read for each request: the kubelet replaces it before it expires.
        return f"Bearer {(folder / 'token').read_text().strip()}"

    try:
        (folder / "token").read_text()
        tls = ssl.create_default_context(cafile=folder / "ca.crt")
    except OSError as error:
        raise no_credentials(str(error)) from error
    address = f"[{host}]" if ":" in host else host
    return Credentials(f"https://{address}:{port}", tls, authorization)


async def of_kubeconfig(path: Path) -> Credentials:
    """Gives those of the current context of a kubeconfig.

    Raises:
        BackendRejected: it cannot be read or used.
    """
    # Here and not above: see the module's description.
    from kubernetes.aio import client, config
    from yaml import YAMLError

    configuration = client.Configuration()
    try:
        await config.load_kube_config(
            str(path), client_configuration=configuration, persist_config=False
        )
        tls = _tls(configuration)
    except (config.ConfigException, OSError) as error:
        raise no_credentials(str(error)) from error
    except (YAMLError, AttributeError, LookupError, TypeError, ValueError) as error:
        # What the library makes of a file that is empty, or written just now.
        raise no_credentials(f"{path} is no kubeconfig: {error}") from error

    async def authorization() -> str | None:
        found: str | None = await configuration.get_api_key_with_prefix("BearerToken")
        return found

    return Credentials(
        configuration.host.rstrip("/"),
        tls,
        authorization,
        configuration.tls_server_name or None,
        configuration.proxy or None,
    )


def _tls(configuration: Any) -> ssl.SSLContext:
    if not configuration.host.startswith("https:"):  # such as `kubectl proxy`
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without authorities, which take 25 ms
    context = ssl.create_default_context(
        cafile=configuration.ssl_ca_cert, cadata=configuration.ca_cert_data
    )
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if configuration.disable_strict_ssl_verification:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def no_credentials(reason: str) -> BackendRejected:
    """Makes the error that says that there are none."""
    return BackendRejected(
        f"no credentials for the cluster: {reason}",
        advice="set KNIT_COMPUTE__KUBERNETES__KUBECONFIG, or run in a pod with rights",
    )
