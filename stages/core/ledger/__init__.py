"""The store: rows as Parquet parts, files beside them, compaction, and what is checked of both."""
