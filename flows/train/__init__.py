"""`rushes train`."""
