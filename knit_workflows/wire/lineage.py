"""Lineage on the wire: a part of the graph of Data and Runs, in full or as ids alone."""

from __future__ import annotations

from pydantic import Field

from knit_workflows.wire.base import Response, is_empty
from knit_workflows.wire.data import Data
from knit_workflows.wire.runs import Run


class Lineage(Response):
    """Data and Runs in full, each once, the nearest first; the first Data is that asked for.

    `left_out` says how many of them belong to others' projects, and are not shown.
    """

    data: list[Data]
    runs: list[Run]
    left_out: int = Field(default=0, exclude_if=is_empty)


class LineageEdge(Response):
    """A Data that went into a Run, or came out of it: two ids.

    The label is the path of the input or output, `(log)` for the log.
    """

    source: str = Field(validation_alias="from", serialization_alias="from")
    target: str = Field(validation_alias="to", serialization_alias="to")
    label: str


class LineageGraph(Response):
    """The same as ids of Data and of Runs; the edges come Run by Run: inputs, outputs, log."""

    data: list[str]
    runs: list[str]
    edges: list[LineageEdge]
    left_out: int = Field(default=0, exclude_if=is_empty)
