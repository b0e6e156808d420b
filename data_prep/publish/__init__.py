"""Kept clips as a frozen version of a data set: files that are cut and checked, an index, shards, sheets, a card."""
