"""Captions of clips: by a model of images and text, by a server, or from what was measured."""
