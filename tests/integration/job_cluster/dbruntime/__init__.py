"""A package that the Databricks Runtime has: clients that find it take the machine for a cluster."""
