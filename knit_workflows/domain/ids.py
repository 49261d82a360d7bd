"""The ids of knit's three nouns: opaque strings to clients, UUIDs in the store."""

from __future__ import annotations

from typing import NewType

PlanId = NewType("PlanId", str)
RunId = NewType("RunId", str)
KnitId = NewType("KnitId", str)
