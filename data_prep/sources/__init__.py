"""Footage as it comes: lists and manifests of it, opening and probing it, how its frames count and are shown."""
