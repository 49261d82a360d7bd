"""A store in memory for tests: the ports that the API uses, under the contract of the real store.

`tests/contract/catalogue` runs over both. Everything is done at once where PostgreSQL leaves it to
the Projector: whatever makes a Run possible makes the Run.
"""

from __future__ import annotations

from tests.memory_store.memory import Memory
from tests.memory_store.store import MemoryStore, new_id

__all__ = ["Memory", "MemoryStore", "new_id"]
