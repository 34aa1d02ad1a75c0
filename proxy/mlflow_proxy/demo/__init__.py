"""An emulated workspace that enforces Databricks' limits, and a storm of real clients against it."""
