"""Benches: one JSON line per figure, each beside its baseline from the same run. Never tests."""
