"""Lifecycle hooks on the wire: what a hook receives, and what users see of the calls."""
