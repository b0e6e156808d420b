"""Footage to a data set: reading sources, measuring them, finding shots, scoring, selecting, captioning, publishing."""
