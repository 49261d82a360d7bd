"""The endpoints, by the noun in their path."""
