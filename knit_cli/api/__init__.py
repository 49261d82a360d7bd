"""Speaking to knit's Web API."""
