"""Plans: what they say, the rules they keep, and how they relate."""
