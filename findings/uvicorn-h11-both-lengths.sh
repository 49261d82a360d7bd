#!/bin/sh
# uvicorn on h11 and a request with both Content-Length and Transfer-Encoding: one expects a refusal
# (RFC 9112, section 6.1, calls it a likely attack), or at least that only the header that counts is
# left. The request is taken, its body is read by its chunks, and the app is given both headers. A
# proxy that forwards the headers of an ASGI scope so passes an ambiguous request on: whoever is
# behind it may read another body, and the rest of it as a second request. Drop the length yourself.
# Seen with uvicorn 0.54.0, h11 0.16.0.
# Needs python3 and a package index; sends to the loopback address only. Fails if the behaviour has
# changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check uvicorn==0.54.0 h11==0.16.0
cat > "$folder/both.py" <<'PYTHON'
import asyncio
import socket

import h11
import uvicorn

seen = []


async def app(scope, receive, send):
    names = sorted(name.decode() for name, _ in scope["headers"])
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    seen.append((names, body))
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


async def main():
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http="h11", ws="none", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    writer.write(
        b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 100\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    )
    status = (await reader.read()).split(b"\r\n")[0]
    writer.close()
    server.should_exit = True
    await task
    print("uvicorn", uvicorn.__version__, "h11", h11.__version__)
    print(status.decode())
    print("headers of the app:", *seen[0][0])
    print("body of the app:   ", seen[0][1])
    assert status.startswith(b"HTTP/1.1 204"), "it is refused now"
    assert {"content-length", "transfer-encoding"} <= set(seen[0][0]), "one of both is dropped now"
    assert seen[0][1] == b"hi"


asyncio.run(main())
PYTHON
"$folder/venv/bin/python" "$folder/both.py"
