"""Workflows: they decide and wait, and leave all side effects to activities.

They run outside Temporal's sandbox, which costs 15 ms per workflow. Tests over their syntax trees,
and the replay of recorded histories, prove that they take time and randomness only from Temporal.
"""
