"""The clients' side of the wire: connections, what counts as a request on them, and how long it may take."""
