"""A differential run: whatever the proxy answers, the upstream would have answered this credential itself."""
