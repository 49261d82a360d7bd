"""Settings come from the environment, once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

import knit_api.__main__
from knit_workflows.domain.plans.options import PodOptions, Toleration
from knit_workflows.settings import Settings, SettingsRefused, read_settings
from knit_workflows.temporal.connection import client_config
from tests.waiting import PATIENCE


def test_nested_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two underscores lead into a group; durations are ISO 8601."""
    monkeypatch.setenv("KNIT_ENGINE__HEARTBEAT", "PT2S")
    monkeypatch.setenv("KNIT_COMPUTE__KIND", "memory")
    monkeypatch.setenv("KNIT_QUEUES__COMPUTE", "mine")
    settings = Settings()
    assert settings.engine.heartbeat == timedelta(seconds=2)
    assert settings.compute.kind == "memory"
    assert settings.queues.compute == "mine"
    assert settings.queues.watch == "knit-watch"


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database password never reaches a log by printing the settings."""
    monkeypatch.setenv("KNIT_STORE__URL", "postgresql://knit:sesame@db/knit")
    assert "sesame" not in repr(Settings())


def test_a_wrong_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, with the setting's name."""
    monkeypatch.setenv("KNIT_ENGINE__PAGE_SIZE", "0")
    with pytest.raises(ValidationError, match="page_size"):
        Settings()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("KNIT_ENGINE__PAGE_SIZE", "0", "KNIT_ENGINE__PAGE_SIZE is '0': Input should be greater"),
        ("KNIT_ENGINE__HEARTBEAT", "soon", "KNIT_ENGINE__HEARTBEAT is 'soon': write a length of"),
        ("KNIT_ENGINE__TRANSFER_LINGER", "0", "is '0': write a length of time like PT20S, PT0S"),
        ("KNIT_ENGINE__HEARTBEAT", "PT0S", "KNIT_ENGINE__HEARTBEAT: Input should be greater"),
        ("KNIT_ENGINE__STOP_GRACE", "-PT1S", "KNIT_ENGINE__STOP_GRACE: Input should be greater"),
        ("KNIT_ENGINE", "fast", "KNIT_GROUP__NAME, or all as JSON"),
        ("KNIT_COMPUTE__KIND", "docker", "'local', 'kubernetes' or 'memory'"),
        ("KNIT_COMPUTE__KUBERNETES__VOLUME_FOLDERS", "/mnt/share", "such as /mnt/share/{pv}"),
        ("KNIT_COMPUTE__KUBERNETES__VOLUME_FOLDERS", "share/{pv}", "an absolute path"),
        ("KNIT_COMPUTE__KUBERNETES__VOLUME_FOLDERS", "/mnt/{uid}", "only {pv}, {claim} and"),
        ("KNIT_COMPUTE__KUBERNETES__INITIAL_CAPACITY", "big", "'big' is not a Kubernetes quantity"),
        (
            "KNIT_COMPUTE__KUBERNETES__RUN_PODS",
            '{"labels": {"knit/x": "y"}}',
            "run_pods.labels.knit/x: the key 'knit/x' is reserved; choose another",
        ),
        (
            "KNIT_COMPUTE__KUBERNETES__RUN_PODS",
            '{"relaunches": 1}',
            "this key is for Plans alone; set KNIT_ENGINE__DISRUPTION_LIMIT",
        ),
        ("KNIT_COMPUTE__KUBERNETES__PLAN_POD_KEYS", '["lables"]', "there is no 'lables'; the keys"),
        (
            "KNIT_COMPUTE__KUBERNETES__EPHEMERAL_STORAGE",
            "big",
            "'big' is not a Kubernetes quantity",
        ),
        (
            "KNIT_VERSIONING__DRAINING",
            "true",
            "a worker that drains has a version: set KNIT_VERSIONING__BUILD_ID",
        ),
        ("KNIT_VERSIONING__DEPLOYMENT_NAME", "a.b", "KNIT_VERSIONING__DEPLOYMENT_NAME is 'a.b': "),
        ("KNIT_LOG_LEVEL", "loud", "KNIT_LOG_LEVEL is 'LOUD': "),
        ("KNIT_LOG_FORMAT", "xml", "KNIT_LOG_FORMAT is 'xml': "),
    ],
)
def test_a_wrong_value_is_told_in_words(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsRefused) as caught:
        read_settings()
    assert said in str(caught.value)
    assert "correct it or remove it" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("KNIT_ENGINE__HEARTBEATS", "KNIT_ENGINE__HEARTBEAT"),
        ("KNIT_STORE__POOLSIZE", "KNIT_STORE__POOL_SIZE"),
        ("KNIT_COMPUTE__KUBERNETES__STORAGECLASS", "KNIT_COMPUTE__KUBERNETES__STORAGE_CLASS"),
        ("KNIT_COMPUTE__LOKAL__STATE", "KNIT_COMPUTE__LOCAL__STATE"),
        ("KNIT_QUEUES__WATCHES", "KNIT_QUEUES__WATCH"),
    ],
)
def test_an_unknown_variable_names_the_nearest_known_one(
    monkeypatch: pytest.MonkeyPatch, name: str, nearest: str
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(SettingsRefused) as caught:
        read_settings()
    assert f"is not a setting of knit, {nearest} is the nearest" in str(caught.value)


def test_variables_outside_the_groups_are_the_business_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KNIT_RACE_SECONDS", "1")
    monkeypatch.setenv("KNIT_OTHER__TOOL", "1")
    read_settings()


def test_all_settings_of_a_back_end_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KNIT_COMPUTE__KUBERNETES__RUN_AS_USER", "1000")
    monkeypatch.setenv("KNIT_COMPUTE__KUBERNETES__POD_IMAGE_PULL_POLICY", "Always")
    monkeypatch.setenv("KNIT_COMPUTE__LOCAL__HOST_IMAGES", "false")
    tolerated = '[{"key": "spot", "seconds": 5, "effect": "NoExecute"}]'
    pods = f'{{"labels": {{"team": "x"}}, "tolerations": {tolerated}}}'
    monkeypatch.setenv("KNIT_COMPUTE__KUBERNETES__RUN_PODS", pods)
    monkeypatch.setenv("KNIT_COMPUTE__KUBERNETES__PLAN_POD_KEYS", '["labels"]')
    monkeypatch.setenv("KNIT_COMPUTE__LOCAL__ENVIRONMENT", '{"DOCKER_HOST": "unix:///x"}')
    compute = read_settings().compute
    assert compute.kubernetes.run_as_user == 1000
    assert compute.kubernetes.run_pods == PodOptions(
        labels={"team": "x"}, tolerations=(Toleration("spot", "Exists", "", "NoExecute", 5),)
    )
    assert compute.kubernetes.plan_pod_keys == ("labels",)
    assert compute.plan_pod_keys is None, "Runs of this machine are not on a cluster"
    on_cluster = compute.model_copy(update={"kind": "kubernetes"})
    assert on_cluster.plan_pod_keys == ("labels",)
    assert compute.kubernetes.pod_image_pull_policy == "Always"
    assert compute.local.host_images is False
    assert compute.local.environment == {"DOCKER_HOST": "unix:///x"}


def test_a_level_may_be_written_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KNIT_LOG_LEVEL", "debug")
    assert read_settings().log_level == "DEBUG"


def test_temporals_configuration_is_read_in_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "temporal.toml"
    broken.write_text("[profile")
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(broken))
    with pytest.raises(SettingsRefused, match="Temporal's configuration cannot be used"):
        client_config()


@pytest.mark.parametrize(
    "module",
    [
        "knit_workflows.store",
        pytest.param("knit_api", marks=pytest.mark.patient),
        pytest.param("knit_workflows", marks=pytest.mark.patient),
        pytest.param("knit_workflows.compute.kubernetes", marks=pytest.mark.patient),
    ],
)
def test_a_process_says_which_variable_is_wrong(module: str, tmp_path: Path) -> None:
    ended = process(module, tmp_path, KNIT_ENGINE__PAGE_SIZE="0")
    assert "KNIT_ENGINE__PAGE_SIZE is '0'" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.returncode in (1, 2)


@pytest.mark.patient
@pytest.mark.parametrize("module", ["knit_workflows", "knit_workflows.store"])
def test_a_process_says_who_does_not_answer(module: str, tmp_path: Path) -> None:
    nowhere = {
        "KNIT_STORE__URL": "postgresql://127.0.0.1:1/x", "TEMPORAL_ADDRESS": "127.0.0.1:1",
    }  # fmt: skip
    ended = process(module, tmp_path, **nowhere)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert ("Temporal does not answer at 127.0.0.1:1" in ended.stderr) or ("hint: " in ended.stderr)


@pytest.mark.parametrize("port", ["70000", "-1", "x"])
def test_a_port_that_is_none_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        knit_api.__main__.main(["--port", port])
    assert ended.value.code == 2
    assert "--port" in capsys.readouterr().err


@pytest.mark.patient
def test_a_role_that_is_none_is_refused(tmp_path: Path) -> None:
    ended = process("knit_workflows", tmp_path, arguments=["--roles", "cook"])
    assert ended.returncode == 2
    assert (
        "'cook' is not a valid Role; roles are engine, compute, watch, interactive" in ended.stderr
    )


def process(
    module: str, cwd: Path, *, arguments: Sequence[str] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize(
    ("window", "life", "fine"),
    [("PT3H", None, False), ("PT1H", "PT1H", False), ("PT1H", "PT2H", True)],
)
def test_a_key_outlives_the_tokens_it_signs(
    monkeypatch: pytest.MonkeyPatch, window: str, life: str | None, fine: bool
) -> None:
    """Also if only one of the two times is set."""
    monkeypatch.setenv("KNIT_ENGINE__IMPORT_WINDOW", window)
    if life is not None:
        monkeypatch.setenv("KNIT_ENGINE__IMPORT_KEY_LIFE", life)
    if fine:
        assert read_settings().engine.import_window == timedelta(hours=1)
        return
    with pytest.raises(SettingsRefused, match="longer than the import window"):
        read_settings()


def test_a_worker_that_drains_leaves_out_what_it_does_not_know(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has the ConfigMap of a newer release; what it knows must still be right."""
    monkeypatch.setenv("KNIT_VERSIONING__BUILD_ID", "0.1.0")
    monkeypatch.setenv("KNIT_VERSIONING__DRAINING", "true")
    monkeypatch.setenv("KNIT_ENGINE__OF_THE_NEXT_RELEASE", "7")
    monkeypatch.setenv("KNIT_COMPUTE__KUBERNETES__NEW_GROUP__OF_IT", "7")
    monkeypatch.setenv("KNIT_ENGINE__PAGE_SIZE", "7")
    settings = read_settings()
    assert settings.versioning.draining
    assert settings.engine.page_size == 7
    monkeypatch.setenv("KNIT_ENGINE__PAGE_SIZE", "0")
    with pytest.raises(SettingsRefused, match="KNIT_ENGINE__PAGE_SIZE is '0'"):
        read_settings()
