"""What the proxies of one workspace have in common: the way to the Redis that they share."""
