"""The charts take what `knit admin` gives them: values fresh and handed over, names of Secrets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from knit_cli.admin import charts
from knit_cli.admin.folder import SettingsFolder
from knit_cli.admin.helm.computed_values import computed_values
from knit_cli.admin.helm.fresh_values import Choices, fresh_values
from knit_cli.admin.installing.installation import merged
from tests.charts.helm import CHARTS, Helm, by_name

NFS = Choices(temporal="temporal.example:7233")
CLASS = Choices(storage_class="shared", temporal="temporal.example:7233")
TRIAL = Choices(storage_class="shared", extra=("knit-temporal",))


@pytest.fixture(params=[NFS, CLASS, TRIAL], ids=["nfs", "class", "trial"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> SettingsFolder:
    made = SettingsFolder(tmp_path / "a folder")
    made.create()
    for name, text in fresh_values(request.param).items():
        made.write(made.values(name), text)
    return made


@pytest.mark.parametrize("plain", [False, True], ids=["tls", "plain"])
@pytest.mark.parametrize("pull", [False, True], ids=["open", "pull-secret"])
def test_all_charts_render(helm: Helm, folder: SettingsFolder, plain: bool, pull: bool) -> None:
    if plain:
        folder.write(folder.without_tls, "")
    if pull:
        secret = {"kind": "Secret", "metadata": {"name": "regcred"}, "data": {}}
        folder.write(folder.pull_secret, json.dumps(secret))
    known: dict[str, dict[str, Any]] = {}
    for chart in charts.chosen(folder):
        given = merged(charts.handed_over(chart, known), computed_values(folder, chart))
        path = folder.root / f"given-{chart}.json"
        path.write_text(json.dumps(given))
        extra = charts.EXTRA_VALUES if chart == charts.APP else ()
        files = [path, *(folder.values(name) for name in (chart, *extra))]
        known[chart] = yaml.safe_load((CHARTS / chart / "values.yaml").read_text())
        for file in files:
            known[chart] = merged(known[chart], yaml.safe_load(file.read_text()) or {})
        words = [word for file in files for word in ("--values", file)]
        if chart == charts.APP:
            words += ["--set-json", 'imageRepository="registry.example/ml"']
        objects = by_name(helm.render(chart, *words))
    text = json.dumps(objects)
    assert ("knit-admin-tls" in text) is not plain
    assert "knit-admin-bootstrap-token" in text
    assert ("regcred" in text) is pull
    assert "registry.example/ml/knit:" in text
    assert objects["Service/knit-api"]["spec"]["ports"][0]["nodePort"] == 30803
