"""What every store gives to the API: over PostgreSQL, and over the one in memory."""
