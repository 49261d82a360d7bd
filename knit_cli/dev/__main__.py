"""The supervisor as a separate process, which `knit dev up --detach` leaves running.

If it cannot start, it reports why on stderr as JSON, for the `knit` that started it.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

from knit_cli.dev.dev_folder import DevFolder
from knit_cli.dev.startup import ALREADY_RUNNING, supervise
from knit_cli.errors import CliError

log = logging.getLogger(__name__)


def main() -> int:
    """Supervises until a signal arrives; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m knit_cli.dev", description=__doc__)
    parser.add_argument("state", type=Path)
    for name in ("--api-port", "--temporal-port", "--web-port"):
        parser.add_argument(name, type=int)
    given = parser.parse_args()
    ports = {"api": given.api_port, "temporal": given.temporal_port, "web_ui": given.web_port}
    try:
        return 0 if supervise(DevFolder(given.state), ports) else ALREADY_RUNNING
    except CliError as error:
        message = {"summary": error.summary, "reason": error.reason, "advice": error.advice}
        sys.stderr.write(f"\n{json.dumps(message)}\n")
        return error.exit_code
    except Exception:
        log.exception("the supervisor failed", extra={"action": "supervisor_failed"})
        raise


if __name__ == "__main__":
    sys.exit(main())
