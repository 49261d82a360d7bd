"""Lets `python -m knit_cli` stand for `knit`."""

from __future__ import annotations

from knit_cli.main import main

main()
