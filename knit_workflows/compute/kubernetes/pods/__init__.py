"""What pods, Jobs and their events mean: how a run pod is, why it waits, how it ended."""
