"""What a process without an API says about itself to a kubelet."""

from __future__ import annotations

import asyncio

import httpx

from knit_workflows.health import Health


async def ask(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    # Nothing is encrypted; to read whom to trust would take longer than the test.
    async with httpx.AsyncClient(trust_env=False, verify=False) as client:
        answer = await client.request(method, f"http://127.0.0.1:{port}{path}")
    return answer.status_code, answer.text.strip()


async def fine() -> None:
    """Nothing is wrong."""


async def test_it_is_alive_from_the_start_and_ready_once_it_works() -> None:
    health = Health()
    async with health.listening(0) as port:
        assert await ask(port, "/livez") == (200, "ok")
        assert await ask(port, "/readyz") == (503, "it is starting")
        health.waits_for("Temporal has no namespace 'x'")
        assert await ask(port, "/readyz") == (503, "Temporal has no namespace 'x'")
        health.is_up({"database": fine})
        assert await ask(port, "/readyz?verbose") == (200, "ok")
        assert await ask(port, "/readyz", "HEAD") == (200, "")
        health.waits_for("it is ending")
        assert await ask(port, "/readyz") == (503, "it is ending")
        assert await ask(port, "/livez") == (200, "ok")


async def test_what_does_not_answer_is_named_and_asked_once_a_second() -> None:
    asked = 0

    async def away() -> None:
        nonlocal asked
        asked += 1
        raise OSError("connection refused")

    health = Health()
    health.is_up({"database": away, "Temporal": fine})
    async with health.listening(0) as port:
        said = await asyncio.gather(*(ask(port, "/readyz") for _ in range(5)))
    assert set(said) == {(503, "database: connection refused")}
    assert asked < 5


async def test_whoever_speaks_no_http_is_no_trouble() -> None:
    health = Health()
    async with health.listening(0) as port:
        for sent in (b"", b"nonsense", b"\r\n\r\n", b"GET " + b"x" * 100_000):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            writer.write_eof()
            assert b" 200 " not in await reader.read()
            writer.close()
        assert await ask(port, "/elsewhere") == (404, "there are /livez and /readyz")
        assert (await ask(port, "/livez", "POST"))[0] == 405
