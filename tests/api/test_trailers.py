"""Trailers in both directions and cut connections, over real sockets, with several clients."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from knit_api.server.trailers import ResponseAborted, request_trailers
from tests.api.live_server import chunk, serving, talk, unchunked
from tests.waiting import PATIENCE

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Sends the body back, its MD5 and the request's trailers behind it as trailers."""
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    sent = dict(request_trailers(scope))
    extended = "http.response.trailers" in scope.get("extensions", {})
    headers = [(b"trailer", b"x-md5")] if extended else []
    await send(
        {"type": "http.response.start", "status": 200, "headers": headers, "trailers": extended}
    )
    await send({"type": "http.response.body", "body": body})
    if extended:
        digest = hashlib.md5(body).hexdigest().encode()
        echoed = [(f"echo-{name}".encode(), value.encode()) for name, value in sent.items()]
        await send(
            {
                "type": "http.response.trailers",
                "headers": [(b"x-md5", digest)],
                "more_trailers": True,
            }
        )
        await send({"type": "http.response.trailers", "headers": echoed})


def parts(response: bytes) -> tuple[bytes, bytes, dict[str, str], bool]:
    head, _, body = response.partition(b"\r\n\r\n")
    return head, *unchunked(body)


async def test_trailers_go_both_ways():
    async with serving(echo) as port:
        response = await talk(
            port,
            HEAD
            + b"Connection: close\r\nTrailer: X-One\r\n\r\n"
            + chunk(b"hello")
            + b"0\r\nX-One: 1\r\nx-two:  two words \r\n\r\n",
        )
    head, content, sent, complete = parts(response)
    assert b"trailer: x-md5" in head.lower()
    assert content == b"hello"
    assert complete
    assert sent == {
        "x-md5": hashlib.md5(b"hello").hexdigest(),
        "echo-x-one": "1",
        "echo-x-two": "two words",
    }


async def test_each_request_of_a_connection_has_its_own_trailers():
    """Pipelined, in one write: the second request lies in the buffer while the first is served."""
    first = HEAD + b"\r\n" + chunk(b"one") + b"0\r\nx-n: 1\r\n\r\n"
    second = HEAD + b"\r\n" + chunk(b"two") + b"0\r\n\r\n"
    third = HEAD + b"Connection: close\r\n\r\n" + chunk(b"three") + b"0\r\nx-n: 3\r\n\r\n"
    async with serving(echo) as port:
        response = await talk(port, first + second + third)
    answers = response.split(b"HTTP/1.1 200 OK\r\n")[1:]
    found = [parts(answer) for answer in answers]
    assert [content for _, content, _, _ in found] == [b"one", b"two", b"three"]
    assert [sent.get("echo-x-n") for _, _, sent, _ in found] == ["1", None, "3"]
    assert all(complete for *_, complete in found)


async def test_http_1_0_gets_no_trailers_and_its_body_all_the_same():
    async with serving(echo) as port:
        response = await talk(port, b"POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi")
    assert response.endswith(b"\r\n\r\nhi")


async def test_trailers_larger_than_a_header_may_be_are_refused():
    endless = b"".join(b"x-%d: %s\r\n" % (n, b"v" * 1000) for n in range(100))
    async with serving(echo) as port:
        response = await talk(port, HEAD + b"\r\n" + chunk(b"x") + b"0\r\n" + endless)
    assert response.startswith(b"HTTP/1.1 400 ") or response == b""


@pytest.mark.parametrize(
    "end", [b"0\r\nno colon\r\n\r\n", b"0\r\nbad name: x\r\n\r\n", b"zz\r\n", b"5\r\nabcdefgh"]
)
async def test_malformed_ends_do_not_reach_the_app_as_good_ones(end):
    async with serving(echo) as port:
        response = await talk(port, HEAD + b"\r\n" + chunk(b"x") + end)
    assert not response.startswith(b"HTTP/1.1 200 ")


async def test_a_cut_response_has_no_last_chunk():
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        raise ResponseAborted

    async with serving(app) as port:
        response = await talk(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    _, content, _, complete = parts(response)
    assert content == b"begun"
    assert not complete


@pytest.mark.patient
async def test_a_body_nobody_wants_is_not_listened_to_for_ever():
    """A refused client may go on sending for a moment, so that it finds the answer; no longer."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 415, "headers": []})
        await send({"type": "http.response.body", "body": b"no"})

    async with serving(app, linger_timeout=0.3) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"\r\n")
        assert (await reader.readuntil(b"no")).startswith(b"HTTP/1.1 415 ")
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(PATIENCE):
                while True:
                    writer.write(chunk(bytes(10_000)))
                    await writer.drain()
                    await asyncio.sleep(0.01)
        writer.close()


async def test_a_refused_body_that_ends_in_time_leaves_the_connection_usable():
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 415, "headers": []})
        await send({"type": "http.response.body", "body": b"no"})

    async with serving(app, linger_timeout=PATIENCE) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(HEAD + b"\r\n")
            assert (await reader.readuntil(b"0\r\n\r\n")).startswith(b"HTTP/1.1 415 ")
            writer.write(chunk(bytes(100_000)) + b"0\r\n\r\n")
            await writer.drain()
        writer.close()


async def ends(reader: asyncio.StreamReader) -> bytes:
    """Gives what comes until the server closes."""
    async with asyncio.timeout(PATIENCE):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


@pytest.mark.parametrize("begun", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"])
async def test_a_client_that_never_asks_is_cut_off(begun):
    async with serving(echo, head_timeout=0.3) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begun)
        assert await ends(reader) == b""
        writer.close()


async def test_one_that_asks_ever_so_slowly_is_cut_off():
    """Each byte gives it no more time."""
    async with serving(echo, head_timeout=0.3) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        ending = asyncio.ensure_future(ends(reader))
        while not ending.done():
            writer.write(b"G" if writer.transport.get_write_buffer_size() == 0 else b"")
            await asyncio.sleep(0.02)
        assert await ending == b""
        writer.close()


async def test_the_next_head_has_its_time_too():
    whole = HEAD + b"\r\n" + chunk(b"one") + b"0\r\n\r\n"
    async with serving(echo, head_timeout=0.3) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(whole)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            await reader.readuntil(b"x-md5: f97c5d29941bfb1b2fdab0874906ab82\r\n\r\n")
        writer.write(HEAD)
        assert await ends(reader) == b""
        writer.close()


async def test_who_has_asked_is_answered_however_long_it_takes():
    """Neither a long body nor a long answer is limited so."""

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.5)
        await echo(scope, receive, send)

    async with serving(slow, head_timeout=0.2) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"Connection: close\r\n\r\n" + chunk(b"on"))
        await asyncio.sleep(0.4)
        writer.write(chunk(b"e") + b"0\r\n\r\n")
        _, content, _, complete = parts(await ends(reader))
        writer.close()
    assert (content, complete) == (b"one", True)


async def run(*command: str | Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
async def test_curl_sees_the_trailer():
    async with serving(echo) as port:
        output = await run(
            "curl", "--silent", "--show-error", "--raw", "--include", "--noproxy", "*",
            "--header", "Transfer-Encoding: chunked", "--data-binary", "hello",
            f"http://127.0.0.1:{port}/",
        )  # fmt: skip
    assert f"x-md5: {hashlib.md5(b'hello').hexdigest()}" in output


GO_CLIENT = """
package main

import ("crypto/md5"; "encoding/hex"; "fmt"; "io"; "net/http"; "os"; "strings")

func main() {
	body, sum := strings.Repeat("knit", 100000), md5.New()
	io.WriteString(sum, body)
	request, _ := http.NewRequest("POST", os.Args[1], io.NopCloser(strings.NewReader(body)))
	request.Trailer = http.Header{"X-Checksum-Md5": {hex.EncodeToString(sum.Sum(nil))}}
	response, err := http.DefaultClient.Do(request)
	if err != nil { panic(err) }
	got, err := io.ReadAll(response.Body)
	if err != nil { panic(err) }
	fmt.Println(len(got) == len(body), response.Trailer.Get("X-Md5"),
		response.Trailer.Get("Echo-X-Checksum-Md5") == request.Trailer.Get("X-Checksum-Md5"))
}
"""


@pytest.mark.patient
@pytest.mark.skipif(not shutil.which("go"), reason="there is no go")
async def test_a_client_in_go_as_existing_ones_are(tmp_path: Path):
    (tmp_path / "main.go").write_text(GO_CLIENT)
    binary = tmp_path / "client"
    await run("go", "build", "-o", binary, tmp_path / "main.go")
    async with serving(echo) as port:
        output = await run(binary, f"http://127.0.0.1:{port}/")
    digest = hashlib.md5(b"knit" * 100_000).hexdigest()
    assert output.split() == ["true", digest, "true"]
