"""Activities of Runs: their steps, what is observed of their pods, and the wait for their end."""
