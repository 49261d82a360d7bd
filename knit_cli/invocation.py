"""One invocation of `knit`: its surroundings and the common flags."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:  # importing httpx takes 0.2 s, which `knit --help` need not spend
    import httpx

PROFILE_MARKER = ".knitprofile"
ENVIRONMENT_FILE = "knitenv"


def _open_browser(url: str) -> bool:
    import webbrowser  # late: only `knit login` needs it

    with suppress(webbrowser.Error):
        return webbrowser.open(url)
    return False


def login_name(variables: Mapping[str, str]) -> str:
    """Gives the name of whoever types: that of the environment, else of the system.

    A user without any, as in many containers, is `uid` and a number.
    """
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        if found := variables.get(name):
            return found
    try:
        import pwd
    except ImportError:  # no such database here
        return "user"
    uid = os.getuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


@dataclass(frozen=True)
class Surroundings:
    """The world outside the process; `main` creates the real one, tests their own.

    `transport` replaces the network under the API client. `open_browser` shows a page to the user
    and says whether it could.
    """

    cwd: Path
    home: Path | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    transport: httpx.BaseTransport | None = None
    sleep: Callable[[float], None] = time.sleep
    open_browser: Callable[[str], bool] = _open_browser


@dataclass(frozen=True)
class Invocation:
    """One invocation of `knit`: its surroundings, and the common flags (None: not given)."""

    surroundings: Surroundings
    profile: str | None = None
    profile_store: Path | None = None
    env: Path | None = None
    quiet: bool = False

    @property
    def profile_name(self) -> str:
        """The key in the profile store: the flag, else the nearest `.knitprofile`, else the cwd.

        Raises:
            OSError: the `.knitprofile` cannot be read.
        """
        if self.profile is not None:
            return self.profile
        cwd = self.surroundings.cwd
        marker = find_upward(cwd, PROFILE_MARKER)
        if marker is None:
            return str(cwd.absolute())
        # A default name is a path, which need not be UTF-8.
        text = marker.read_text(encoding="utf-8", errors="surrogateescape")
        return text.partition("\n")[0].strip()

    @property
    def store_path(self) -> Path:
        """The profile store: the flag, else `~/.knit/profile`."""
        if self.profile_store is not None:
            return self.surroundings.cwd / self.profile_store
        return (self.surroundings.home or self.surroundings.cwd) / ".knit" / "profile"

    @property
    def credentials_path(self) -> Path:
        """The file with the logins, beside the profile store."""
        return self.store_path.with_name("credentials")

    @property
    def env_path(self) -> Path:
        """The project defaults: the flag, else the nearest `knitenv`, else one in the cwd."""
        cwd = self.surroundings.cwd
        if self.env is not None:
            return cwd / self.env
        return find_upward(cwd, ENVIRONMENT_FILE) or cwd / ENVIRONMENT_FILE

    def path(self, text: str) -> Path:
        """Resolves a path that a user wrote: `~/` is home, a relative one starts at the cwd."""
        home = self.surroundings.home
        if home is not None and (text == "~" or text.startswith("~/")):
            return home / text[2:]
        return self.surroundings.cwd / text


def find_upward(folder: Path, name: str) -> Path | None:
    """Finds the nearest regular file of that name in the folder or its ancestors."""
    start = folder.absolute()
    for ancestor in (start, *start.parents):
        candidate = ancestor / name
        with suppress(OSError):  # an ancestor that may not be read
            if candidate.is_file():
                return candidate
    return None


def invocation_of(context: typer.Context) -> Invocation:
    """Gives the invocation a command belongs to."""
    found = context.find_object(Invocation)
    if found is None:
        raise RuntimeError("a command was started without an Invocation")
    return found
