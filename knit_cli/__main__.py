"""Lets `python -m knit_cli` stand for `knit`."""

from knit_cli.main import main

main()
