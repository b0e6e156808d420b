"""What a run may open and send, and what it may say of it."""
