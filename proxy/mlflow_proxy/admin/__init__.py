"""The proxy's own endpoints, under ``/-/``."""
