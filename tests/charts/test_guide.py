"""The commands of the guide to the charts: helm takes each, with every value that it names."""

from __future__ import annotations

import json
import re
import shlex

import pytest
import yaml

from tests.charts.helm import CHARTS, Helm

GUIDE = CHARTS.parent / "docs" / "how-to" / "charts.md"
HANDED_OVER = re.compile(r"\$\((?:values|helm get values) ([a-z-]+)[^)]*\)")
ONLY_INSTALLING = {"-i", "--wait", "--create-namespace"}


def installations() -> list[str]:
    """Every command that installs a chart, on one line, unless it has an ellipsis."""
    text = GUIDE.read_text().replace("\\\n", " ")
    return re.findall(r"^helm upgrade -i [^…\n]*$", text, re.MULTILINE)


COMMANDS = installations()


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("command", COMMANDS)
def test_helm_takes_the_command(helm: Helm, command: str) -> None:
    """With the values that another chart hands over as they are by default."""
    words = [word for word in shlex.split(command, comments=True) if word not in ONLY_INSTALLING]
    assert words[:2] == ["helm", "upgrade"]
    name, chart, *options = words[2:]
    assert chart == f"charts/{name}"
    filled = [HANDED_OVER.sub(lambda found: values_of(found[1]), one) for one in options]
    filled = [one.replace("$NODES", "192.0.2.1,192.0.2.2") for one in filled]
    assert not any("$" in one for one in filled), filled
    assert helm.run("template", name, CHARTS.parent / chart, *filled).stdout


def values_of(chart: str) -> str:
    return json.dumps(yaml.safe_load((CHARTS / chart / "values.yaml").read_text()))
