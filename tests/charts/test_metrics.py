"""Metrics of an installation: who serves them where, who may read them, and alerts on them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from knit_workflows.metrics.instruments import INSTRUMENTS
from tests.charts.helm import Helm, by_name, ci_values
from tests.charts.promtool import (
    ALERTS,
    DASHBOARD,
    OF_OTHERS,
    TESTS_OF_ALERTS,
    dashboard_expressions,
)

MINIMAL = ("--set", "temporal.address=temporal:7233")
MONITORING = "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.team=monitoring"


def rendered(helm: Helm, *arguments: str | Path) -> dict[str, Any]:
    return by_name(helm.render("knit-app", *MINIMAL, *arguments))


def processes(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The container of each Deployment, by the name of its component."""
    return {
        name.removeprefix("Deployment/knit-"): one["spec"]["template"]["spec"]["containers"][0]
        for name, one in found.items()
        if name.startswith("Deployment/")
    }


def metrics_rules(policy: dict[str, Any]) -> list[dict[str, Any]]:
    return [rule for rule in policy["spec"]["ingress"] if {"port": "metrics"} in rule["ports"]]


def test_every_process_serves_metrics_at_a_port_of_no_service(helm: Helm) -> None:
    found = rendered(helm, "--set", "expander.enabled=true")
    every = processes(found)
    assert len(every) == 7
    for name, container in every.items():
        assert "--metrics-address=:9464" in container["command"], name
        assert {"name": "metrics", "containerPort": 9464} in container["ports"], name
    [port] = found["Service/knit-api"]["spec"]["ports"]
    assert port["targetPort"] == "api"


def test_without_metrics_nothing_is_left_of_them(helm: Helm) -> None:
    found = rendered(helm, "--set", "metrics.enabled=false", "--set", "expander.enabled=true")
    assert "metrics" not in str(found)
    assert found["NetworkPolicy/knit-worker-watch"]["spec"]["ingress"] == []
    assert found["NetworkPolicy/knit-worker-expander"]["spec"]["ingress"] == []


def test_who_may_read_metrics_may_do_nothing_else(helm: Helm) -> None:
    found = rendered(helm, "--set", MONITORING, "--set", "expander.enabled=true")
    peers = [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}]
    for name in processes(found):
        policy = found[f"NetworkPolicy/knit-{name}"]
        [rule] = metrics_rules(policy)
        assert rule == {"ports": [{"port": "metrics"}], "from": peers}, name
        others = [one for one in policy["spec"]["ingress"] if one != rule]
        assert [one["ports"] for one in others] == ([[{"port": "api"}]] if name == "api" else [])


def test_unless_it_is_said_every_pod_may_read_them(helm: Helm) -> None:
    found = rendered(helm)
    [rule] = metrics_rules(found["NetworkPolicy/knit-worker-hooks"])
    assert rule["from"] == [{"namespaceSelector": {}}]


def test_the_operators_kinds_are_made_only_when_asked_for(helm: Helm) -> None:
    kinds = {"PodMonitor", "PrometheusRule"}
    assert not {one["kind"] for one in rendered(helm).values()} & kinds
    asked = ("--set", "metrics.podMonitor.enabled=true", "--set", "metrics.rules.enabled=true")
    assert {one["kind"] for one in rendered(helm, *asked).values()} >= kinds


def test_the_monitor_finds_every_process_and_nothing_else(helm: Helm) -> None:
    found = rendered(helm, "--set", "metrics.podMonitor.enabled=true")
    spec = found["PodMonitor/knit-app"]["spec"]
    [endpoint] = spec["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("metrics", "/metrics")
    wanted = spec["selector"]["matchLabels"].items()
    for name, one in found.items():
        if name.startswith("Deployment/"):
            assert wanted <= one["spec"]["template"]["metadata"]["labels"].items(), name
    assert spec["namespaceSelector"] == {"matchNames": ["default"]}


def test_a_monitor_without_metrics_is_refused_in_words(helm: Helm) -> None:
    asked = ("--set", "metrics.podMonitor.enabled=true", "--set", "metrics.enabled=false")
    assert "needs metrics.enabled" in helm.refusal("knit-app", *MINIMAL, *asked)


@pytest.mark.parametrize("port", ["8080", "8081", "80"])
def test_a_port_that_is_taken_is_refused(helm: Helm, port: str) -> None:
    assert "metrics" in helm.refusal("knit-app", *MINIMAL, "--set", f"metrics.port={port}")


def test_the_rules_are_the_file(helm: Helm) -> None:
    """What is in the cluster is what promtool has tested."""
    [values] = [one for one in ci_values("knit-app") if one.stem == "production-values"]
    found = by_name(helm.render("knit-app", "--values", values))
    assert found["PrometheusRule/knit-app"]["spec"] == yaml.safe_load(ALERTS.read_text())


def test_alerts_are_about_metrics_that_there_are_and_each_is_tried() -> None:
    """`python -m tests.charts.promtool` tries them, and finds nothing wrong with any name."""
    rules = [
        rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
    ]
    tried = TESTS_OF_ALERTS.read_text()
    ours = {one._name for one in INSTRUMENTS}
    for rule in rules:
        assert f"alertname: {rule['alert']}\n" in tried
        for name in re.findall(r"knit_[a-z_]+", rule["expr"]):
            assert re.sub("_(total|count|sum|bucket)$", "", name) in ours, rule["alert"]


def test_the_dashboard_is_made_when_asked_for_and_is_the_file(helm: Helm) -> None:
    assert "ConfigMap/knit-dashboard" not in rendered(helm)
    asked = ("--set", "metrics.dashboard.enabled=true")
    made = rendered(helm, *asked)["ConfigMap/knit-dashboard"]
    assert json.loads(made["data"]["knit.json"]) == json.loads(DASHBOARD.read_text())
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    refused = helm.refusal("knit-app", *MINIMAL, *asked, "--set", "metrics.enabled=false")
    assert "needs metrics.enabled" in refused


def test_every_metric_of_the_dashboard_is_there_and_each_has_a_panel() -> None:
    """`python -m tests.charts.promtool` parses its expressions."""
    ours = {one._name for one in INSTRUMENTS}
    used = set()
    for title, exprs in dashboard_expressions().items():
        assert exprs, title
        for name in re.findall(r"\b(?:knit|temporal|process)_[a-z_]+", "\n".join(exprs)):
            plain = re.sub("_(total|count|sum|bucket)$", "", name)
            assert plain in ours or name in OF_OTHERS, f"{title}: {name}"
            used.add(plain)
    # The limit of connections is for alerts.
    assert ours - used == {"knit_database_connections_limit"}


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    """Ids are unique, panels do not overlap, and every panel asks the chosen Prometheus."""
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    assert len({one["id"] for one in panels}) == len(panels)
    assert {one["type"] for one in panels} == {"row", "stat", "timeseries"}
    taken = set()
    for one in panels:
        place = one["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, one["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        if one["type"] != "row":
            assert one["datasource"]["uid"] == "${datasource}"
            refs = [target["refId"] for target in one["targets"]]
            assert len(set(refs)) == len(refs)
    assert [one["name"] for one in dashboard["templating"]["list"]] == ["datasource", "namespace"]


def test_traces_are_off_unless_a_collector_is_named(helm: Helm) -> None:
    assert "OTEL_" not in str(rendered(helm))
    asked = (
        *("--set", "traces.endpoint=http://otel:4318", "--set", "traces.headersSecret=otlp"),
        *("--set-json", "traces.ratio=0.25", "--set", "traces.attributes.team=ml"),
    )
    found = rendered(helm, *asked)
    settings = found["ConfigMap/knit-settings"]["data"]
    assert {key: value for key, value in settings.items() if key.startswith("OTEL_")} == {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel:4318",
        "OTEL_RESOURCE_ATTRIBUTES": "k8s.namespace.name=default,team=ml",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.25",
    }
    headers = {
        "name": "OTEL_EXPORTER_OTLP_HEADERS",
        "valueFrom": {"secretKeyRef": {"name": "otlp", "key": "headers"}},
    }
    assert all(headers in one["env"] for one in processes(found).values())
    wrong = ("--set", "traces.endpoint=otel:4317")
    assert "traces" in helm.refusal("knit-app", *MINIMAL, *wrong)
