"""What is public of knit_workflows is there by name, and costs nothing until it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import knit_workflows


@pytest.mark.parametrize("name", knit_workflows.__all__)
def test_what_is_public_is_there(name: str) -> None:
    value = getattr(knit_workflows, name)
    assert value.__doc__ or isinstance(value, frozenset | tuple)
    assert name in dir(knit_workflows)


def test_what_is_not_public_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="nothing_like_that"):
        knit_workflows.nothing_like_that  # noqa: B018


def test_the_package_alone_loads_no_library() -> None:
    code = "import knit_workflows, sys; print({'temporalio', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.patient
def test_the_example_of_the_documentation_works() -> None:
    code = "from knit_workflows import KnitPlugin, Deps, run_plan; print(run_plan.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "run_plan\n"
