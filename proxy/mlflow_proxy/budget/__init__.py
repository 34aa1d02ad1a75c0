"""The workspace's queries per second: when the next call may leave, and which call is next in line."""
