"""The command `rushes`."""
