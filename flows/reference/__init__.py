"""docs/settings.md, written from the docstrings of every config: `python -m flows.reference.page`."""
