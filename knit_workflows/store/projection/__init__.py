"""From commits to the Runs they mean."""
