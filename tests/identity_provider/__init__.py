"""A real identity provider for tests: npm's `oidc-provider`, which is certified, run by node.

It comes from its registry, once per version, into the cache folder; its versions are pinned here.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Final
from urllib.parse import urljoin

import httpx

from tests.docs.receivers import npm_packages
from tests.waiting import PATIENCE

HERE: Final = Path(__file__).parent
CLIENT_ID: Final = "knit"
_FORM: Final = re.compile(r"<form[^>]*action=\"([^\"]+)\"[^>]*>(.*?)</form>", re.DOTALL)
_INPUT: Final = re.compile(r"<input\b[^>]*>", re.DOTALL)


class IdentityProvider:
    """The provider's process, and what users do with their browsers."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.issuer = self._line()

    def rotate_keys(self) -> None:
        """From now on it signs with a new key, and has only that one."""
        assert self._process.stdin is not None
        self._process.stdin.write("rotate\n")
        self._process.stdin.flush()
        assert self._line() == "rotate"

    def keys(self) -> list[str]:
        """The ids of its keys."""
        found = httpx.get(f"{self.issuer}/jwks", trust_env=False, timeout=PATIENCE).json()["keys"]
        return [key["kid"] for key in found]

    def confirm(self, page: str, user: str) -> str:
        """Opens the page with a code in its address, logs in and confirms; gives the last page."""
        return self._walk(page, {"login": user, "password": "any"})

    def deny(self, page: str) -> str:
        """Opens the page with a code in its address, and says no."""
        return self._walk(page, {"abort": "yes"})

    def _walk(self, page: str, typed: dict[str, str]) -> str:
        """Submits one form after the other, as a browser does, until there is none."""
        with httpx.Client(follow_redirects=True, trust_env=False, timeout=PATIENCE) as browser:
            shown = browser.get(page)
            for _ in range(9):
                form = _FORM.search(shown.text)
                if form is None:
                    return shown.text
                fields = dict(_fields(form[2])) | typed
                shown = browser.post(urljoin(str(shown.url), unescape(form[1])), data=fields)
                if "abort" in typed:
                    return shown.text
        raise AssertionError(shown.text)

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, f"it has ended: {self._process.poll()}"
        return line


def _fields(form: str) -> Iterator[tuple[str, str]]:
    for tag in _INPUT.findall(form):
        parts = dict(re.findall(r'(\w+)="([^"]*)"', tag))
        if "name" in parts:
            yield parts["name"], unescape(parts.get("value", ""))


@contextmanager
def identity_provider(
    folder: Path, *, lifetime: int = 600, audience: str | None = None
) -> Iterator[IdentityProvider]:
    """Runs one until the block ends.

    Args:
        folder: gets its log.
        lifetime: of its ID and access tokens, in seconds.
        audience: of its access tokens, which are then JSON Web Tokens.
    """
    libraries = npm_packages("provider", HERE)
    (folder / "node_modules").symlink_to(libraries / "node_modules")
    program = folder / "provider.mjs"
    program.write_bytes((HERE / "provider.mjs").read_bytes())
    environment = os.environ | {"LIFETIME": str(lifetime), "NODE_ENV": "test"}
    if audience is not None:
        environment["AUDIENCE"] = audience
    with (folder / "provider.log").open("wb") as log:
        process = subprocess.Popen(
            ["node", str(program)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        yield IdentityProvider(process)
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait(PATIENCE)
        process.stdout.close()
