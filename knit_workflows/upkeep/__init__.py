"""What has to run in Temporal at any time: the Projector, and schedules; also after a loss."""
