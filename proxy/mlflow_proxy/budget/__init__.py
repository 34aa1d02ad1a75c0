"""The workspace's queries per second: when the next call may leave, and who is next in line."""
