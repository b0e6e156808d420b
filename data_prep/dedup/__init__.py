"""Clips that are copies of one another: their fingerprints, who is near whom, and which one is kept."""
