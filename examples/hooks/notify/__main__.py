"""Posts a message to a chat when a Run fails: an After hook.

CHAT_URL, in the environment, is an incoming webhook of the chat, SECRET what knit signs with.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import queue
import sys
import threading
import time
import urllib.request

from receiver import Answer, Run, serve

PAUSES = (1, 5, 30)  # seconds between the attempts to reach the chat


def message(run: Run) -> str:
    """Says what has failed, and how to see more of it."""
    plan, ended = run["plan"], run.get("exit")
    image = plan.get("image") or plan.get("name")
    how = f"exit code {ended['code']}: {ended['message']}" if ended else "it has never started"
    return (
        f"A Run of {image} has failed ({how})\nPlan {plan['planId']}\nknit run show {run['runId']}"
    )


def post(chat: str, text: str) -> None:
    """Posts one message; raises OSError or HTTPException if the chat does not take it."""
    # Chats read <…> as links and mentions, and what a container says is not ours.
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    request = urllib.request.Request(
        chat, json.dumps({"text": plain}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10):
        pass


def post_all(chat: str, messages: queue.SimpleQueue[str | None]) -> None:
    """Posts one message after the other, up to the None that ends them."""
    while (text := messages.get()) is not None:
        for pause in (*PAUSES, None):
            try:
                post(chat, text)
                break
            except (OSError, http.client.HTTPException) as error:  # no answer, or not 2xx
                print(f"the chat does not take {text!r}: {error}", file=sys.stderr, flush=True)
                if pause is not None:
                    time.sleep(pause)


def main() -> None:
    """Serves until it is ended; what is in the queue then is still posted."""
    parser = argparse.ArgumentParser(prog="python -m notify", description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:8701", metavar="ADDRESS:PORT")
    listen = parser.parse_args().listen
    chat = os.environ.get("CHAT_URL", "")
    if not chat.startswith(("http://", "https://")):
        parser.error("set CHAT_URL in the environment to the URL of the chat's incoming webhook")
    messages: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def told(run: Run) -> Answer:
        if run["transition"]["to"] == "failed":
            messages.put(message(run))  # knit is not kept waiting for the chat
        return Answer(200)

    posting = threading.Thread(target=post_all, args=(chat, messages))
    posting.start()
    try:
        serve(listen, told)
    finally:
        messages.put(None)
        posting.join()


if __name__ == "__main__":
    main()
