"""The memo of hits against a proxy without it: whatever happens, both answer alike."""
