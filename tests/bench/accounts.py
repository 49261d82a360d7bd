"""What access control adds to a request: a token that is checked, and the record of a change.

Two API processes on one database, asked in turn over kept connections: one with accounts, one
without.
"""

from __future__ import annotations

import http.client
import tempfile
import time
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from knit_workflows.domain.accounts.tokens import digest_of, new_token
from knit_workflows.store import migrate
from knit_workflows.testing import embedded_postgres
from tests.api.test_processes import NOBODY, api
from tests.bench.figures import figure, percentile

REQUESTS: Final = 2000
WARM_UP: Final = 200


async def accounts() -> None:
    """Prints what a read and a change take, with accounts and without."""
    token = new_token()
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        server = stack.enter_context(embedded_postgres())
        url = server.url(f"bench_{uuid.uuid4().hex}")
        await migrate(url)
        clients = []
        for required in ("true", "false"):
            place = Path(folder) / required
            place.mkdir()
            settings = {
                **NOBODY,
                "KNIT_STORE__URL": url,
                "KNIT_ACCOUNTS__REQUIRED": required,
                "KNIT_ACCOUNTS__BOOTSTRAP_TOKEN_SHA256": digest_of(token),
                "KNIT_ACCOUNTS__REQUESTS_PER_MINUTE": "10000000",
            }
            running = stack.enter_context(api(place, **settings))
            clients.append(_Client(running.url, token))
        read, change = f"/api/runs/{uuid.uuid4()}", f"/api/runs/{uuid.uuid4()}/abort"
        _compare("a read", clients, "GET", read, "adds <= 0.3 at p50")
        _compare("a change, recorded before and after", clients, "PUT", change, "")


class _Client:
    def __init__(self, url: str, token: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc)
        self._headers = {"Authorization": f"Bearer {token}"}

    def ask(self, method: str, path: str) -> float:
        """Gives how many milliseconds the response took."""
        began = time.perf_counter()
        self._connection.request(method, path, headers=self._headers)
        response = self._connection.getresponse()
        response.read()
        assert response.status == 404, response.status
        return (time.perf_counter() - began) * 1000


def _compare(name: str, clients: list[_Client], method: str, path: str, target: str) -> None:
    took: list[list[float]] = [[], []]
    for turn in range(WARM_UP + REQUESTS):
        for times, client in zip(took, clients, strict=True):
            spent = client.ask(method, path)
            if turn >= WARM_UP:
                times.append(spent)
    with_accounts, without = (percentile(times, 0.5) for times in took)
    figure(
        f"accounts: what they add to {name} (p50)",
        with_accounts - without,
        "ms",
        target,
        with_accounts=round(with_accounts, 3),
        without=round(without, 3),
    )
