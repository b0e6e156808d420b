"""What every flow shares between its config and its end: the run, its order, its progress and its stopping."""
