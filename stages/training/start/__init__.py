"""Weights to begin with that are better than random: the best linear VAE and upsampler, by least squares."""
