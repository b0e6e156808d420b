"""`rushes evaluate`: videos made or read, judged and compared."""
