"""Where the file of a source lies, as against what it is."""

FILE = ("uri", "bytes", "sha256", "version", "stream_index")
"""Columns of a source that a step is handed to find its frames, and that decide no result: a file that moved is the
same source, and `source_id` says already which stream of which bytes it is. By length, SHA-256 and version (mtime or
etag) a file that was replaced is noticed."""
