"""`python -m knit_workflows`: the worker process."""

from knit_workflows.worker import main

main()
