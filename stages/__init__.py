"""The steps that make video from prompts, what they share, the model families, and training."""
