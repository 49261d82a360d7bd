"""`python -m knit_workflows`: the worker process."""

from __future__ import annotations

from knit_workflows.worker import main

main()
