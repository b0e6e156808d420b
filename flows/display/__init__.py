"""What rows look like: grids and texts in a terminal, pieces of HTML."""
