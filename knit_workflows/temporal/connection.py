"""Connects to Temporal as the `TEMPORAL_…` variables or its configuration file say.

`temporalio.envconfig` reads them: `TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`, TLS, an API key.
"""

from __future__ import annotations

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfigProfile, ClientConnectConfig

from knit_workflows import tracing
from knit_workflows.settings import SettingsRefused


def client_config() -> ClientConnectConfig:
    """Reads the configuration; raises SettingsRefused when it is invalid."""
    try:
        config = ClientConfigProfile.load().to_client_connect_config()
    except Exception as cause:  # the SDK raises RuntimeError, ValueError and OSError alike
        raise SettingsRefused(
            f"Temporal's configuration cannot be used: {cause}; correct the TEMPORAL_… variables "
            "or the file that TEMPORAL_CONFIG_FILE names"
        ) from cause
    config.setdefault("target_host", "localhost:7233")
    return config


async def connect(config: ClientConnectConfig) -> Client:
    """Connects; raises RuntimeError, as the SDK does, when Temporal does not answer.

    The plugin is not part of the client: each Worker has its own, for its roles, and to the API it
    would bring the worker's half of the SDK, some 10 MiB. A client of a process that is traced
    passes its traces on.
    """
    return await Client.connect(
        **config, data_converter=pydantic_data_converter, interceptors=tracing.interceptors()
    )
