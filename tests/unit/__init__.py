"""Pure rules, stores and waits, each by itself: no sockets but for one, no real time."""
