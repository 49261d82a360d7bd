"""What the shell completes: by how it begins, the newest first, deleted things never."""

from __future__ import annotations

from knit_workflows.store.completions import _bounds


def test_the_bounds_of_a_beginning() -> None:
    assert _bounds("12345678-9") == (
        "12345678-9000-0000-0000-000000000000",
        "12345678-9fff-ffff-ffff-ffffffffffff",
    )
