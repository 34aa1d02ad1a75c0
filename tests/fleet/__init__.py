"""Proxies that share a Redis: a real one, started here."""
