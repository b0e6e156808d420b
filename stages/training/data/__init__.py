"""What training reads: clips of data sets or of the world, batches of them, and encoded clips that are kept."""
