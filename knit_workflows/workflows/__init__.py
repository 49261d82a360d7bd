"""Workflows: they decide and wait, and never touch the world themselves.

They run outside Temporal's sandbox, which costs 15 ms per workflow; that they take neither time nor
chance nor the world from elsewhere than Temporal is proven by tests over their syntax trees, and by
the replay of recorded histories.
"""
