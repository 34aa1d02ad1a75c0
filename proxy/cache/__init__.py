"""How long an answer may be used again, where it is kept, and how identical reads share one call."""
