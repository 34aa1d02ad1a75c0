"""Random writes and reads: nothing that a read gets is older than the last write that was answered."""
