"""How like or good pictures and videos are, in numbers."""
