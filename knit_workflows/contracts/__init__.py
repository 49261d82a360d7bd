"""The messages of workflows and activities, and the interfaces of the activities.

With `names` and the values of the domain, all that a workflow may import: pure pydantic models, no
clock, no randomness, no environment. Every workflow, activity, signal and update takes one message
and returns one; fields may be added with a default, never given a new meaning.
"""
