"""Properties of pure functions, by what the functions read."""
