"""The judge of the procedural world: what a video shows, read from its pixels."""
