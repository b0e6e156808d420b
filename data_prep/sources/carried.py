"""Where the file of a source lies, as against what it is."""

FILE = ("uri", "stream_index")
"""Columns of a source that a step is handed to find its frames, and that decide no result: a file that moved is the
same source, and `source_id` says already which stream of which bytes it is."""
