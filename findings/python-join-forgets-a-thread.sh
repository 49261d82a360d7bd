#!/bin/sh
# CPython's Thread.join() and Ctrl-C: the end of a program waits for all threads that are no daemons, as
# documented. But a join() that Ctrl-C interrupts marks the thread as stopped although it runs: is_alive() is
# False, and the program ends without it, in the middle of what it was doing.
# Seen with CPython 3.11.7. So "do it in a thread, Ctrl-C will not end it" does not hold; hold the signal back.
# Needs python3. Fails if the behaviour has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/joins.py" <<'PYTHON'
import os
import signal
import sys
import threading
import time


def work():
    time.sleep(1)
    print("finished", flush=True)


def interrupt():
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGINT)


worker = threading.Thread(target=work)
worker.start()
threading.Thread(target=interrupt).start()
try:
    worker.join() if sys.argv[1] == "join" else time.sleep(5)
except KeyboardInterrupt:
    print("interrupted, alive:", worker.is_alive(), flush=True)
PYTHON
python3 --version
waiting=$(python3 "$folder/joins.py" sleep | tr '\n' ';')
joining=$(python3 "$folder/joins.py" join | tr '\n' ';')
echo "  Ctrl-C in sleep() -> $waiting"
echo "  Ctrl-C in join()  -> $joining"
test "$waiting" = "interrupted, alive: True;finished;"
test "$joining" = "interrupted, alive: False;"
