#!/bin/sh
# CPython's http.client and a body that is shorter than its Content-Length: read() raises
# IncompleteRead, as one expects; read1() and readinto() end it as if all were there, without an error.
# Seen with CPython 3.11.7. Whoever streams a body with them has to count its bytes.
# Needs python3; sends to the loopback address only. Fails if the behaviour has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/short.py" <<'PYTHON'
import http.client
import platform
import socket
import threading


def answer(read):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def serve():
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabcd")

        thread = threading.Thread(target=serve)
        thread.start()
        client = http.client.HTTPConnection("127.0.0.1", listener.getsockname()[1], timeout=10)
        client.request("GET", "/")
        response = client.getresponse()
        try:
            found = repr(read(response))
        except http.client.IncompleteRead as error:
            found = f"IncompleteRead: {error}"
        client.close()
        thread.join()
    return found


def by_read1(response):
    return b"".join(iter(lambda: response.read1(4096), b""))


def by_readinto(response):
    buffer, all_of_it = bytearray(4096), b""
    while count := response.readinto(buffer):
        all_of_it += buffer[:count]
    return all_of_it


seen = {"read()": answer(lambda r: r.read()), "read1()": answer(by_read1), "readinto()": answer(by_readinto)}
print("CPython", platform.python_version())
for how, found in seen.items():
    print(f"  4 of 10 bytes by {how:11} -> {found}")
assert seen["read()"].startswith("IncompleteRead"), "read() has changed"
assert seen["read1()"] == "b'abcd'", "read1() has changed"
assert seen["readinto()"] == "b'abcd'", "readinto() has changed"
PYTHON
python3 "$folder/short.py"
