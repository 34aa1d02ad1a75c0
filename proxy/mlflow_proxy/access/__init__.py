"""Access: which stored answers a client may be served, and which credential goes to the workspace."""
