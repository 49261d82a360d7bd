"""The messages of workflows and activities, and the activities' abstract shape.

All that a workflow may import, besides `names`: pure pydantic models, no clock, no randomness, no
environment. One message in, one message out, for every workflow, activity, signal and update;
fields may be added with a default, never removed or given a new meaning.
"""
