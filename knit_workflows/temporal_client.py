"""Where Temporal is, as `TEMPORAL_…` variables or its configuration file say."""

from __future__ import annotations

from temporalio.envconfig import ClientConfigProfile, ClientConnectConfig

from knit_workflows.settings import SettingsRefused


def client_config() -> ClientConnectConfig:
    """Gives what `Client.connect` wants; raises SettingsRefused for what cannot be read."""
    try:
        config = ClientConfigProfile.load().to_client_connect_config()
    except Exception as cause:  # the SDK raises RuntimeError, ValueError and OSError alike
        raise SettingsRefused(
            f"Temporal's configuration cannot be used: {cause}; correct the TEMPORAL_… variables "
            "or the file that TEMPORAL_CONFIG_FILE names"
        ) from cause
    config.setdefault("target_host", "localhost:7233")
    return config
