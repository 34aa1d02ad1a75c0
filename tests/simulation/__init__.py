"""The budget's real code against an emulated workspace, in virtual time."""
