"""Latents and embeddings as files: one form that every family keeps to."""
