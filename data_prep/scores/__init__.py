"""Scores: a number or a vector of each clip. Each module is one step, and none imports another."""
