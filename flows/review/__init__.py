"""`rushes review`: the page on which people look at takes and choose."""
