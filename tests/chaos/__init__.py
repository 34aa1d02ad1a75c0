"""Clients through two proxies while everything behind them fails: what arrives is right, or nothing does."""
