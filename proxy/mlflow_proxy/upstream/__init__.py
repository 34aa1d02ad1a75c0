"""The wire to the workspace: one client session, foreign exceptions mapped to ours, the retry policy."""
