"""What is known about the MLflow REST API, as data and pure functions: no I/O, no clock, no event loop."""
