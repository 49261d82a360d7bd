"""`python -m knit_workflows.store`: brings the database of `KNIT_STORE__URL` to this version.

Run it before the first start and before each upgrade; a second run changes nothing. It connects as
the owner of the tables. The role in `KNIT_STORE__APPLICATION_ROLE`, as which the other processes
then connect, is granted what they need and no more.
"""

from __future__ import annotations

import argparse
import asyncio

from knit_workflows.domain.errors import StoreUnavailable
from knit_workflows.settings import SettingsRefused, read_settings
from knit_workflows.store import RoleRefused, migrate


def main() -> None:
    """Migrates, or says in words why not: exit code 2 for a wrong setting, 1 if it is away."""
    parser = argparse.ArgumentParser(prog="python -m knit_workflows.store", description=__doc__)
    parser.parse_args()
    try:
        settings = read_settings().store
    except SettingsRefused as refused:
        parser.error(str(refused))
    try:
        asyncio.run(
            migrate(settings.url.get_secret_value(), application_role=settings.application_role)
        )
    except RoleRefused as refused:
        parser.error(f"KNIT_STORE__APPLICATION_ROLE: {refused}")
    except StoreUnavailable as error:
        parser.exit(1, f"error: {error.reason}\nhint: {error.advice or 'check KNIT_STORE__URL'}\n")


if __name__ == "__main__":
    main()
