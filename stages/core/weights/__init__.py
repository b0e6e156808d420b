"""Checkpoints: where they lie, what they must hold, how their content is hashed. Nothing is loaded here."""
