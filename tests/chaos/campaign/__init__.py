"""The fault campaign: work flows through a whole knit while its parts are killed and cut off.

`python -m tests.chaos.campaign` (`make chaos`) runs it, in batches from a recorded seed; after each
batch everything recovers, comes to rest, and is looked through.
"""
