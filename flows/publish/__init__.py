"""`rushes publish`: a data set from the clips that a curation keeps."""
