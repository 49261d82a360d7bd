"""Runs: their statuses, and where their time goes."""
