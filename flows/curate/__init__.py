"""`rushes curate` and the report of a curation."""
