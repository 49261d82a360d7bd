"""Pictures of how Data, Runs and Plans hang together."""
