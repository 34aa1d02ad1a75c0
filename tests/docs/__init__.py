"""The documents: every command in them runs, every name exists, every link leads somewhere."""
