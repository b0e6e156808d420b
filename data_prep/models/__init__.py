"""The networks that scores, captions and cuts are made with, and how their weights are loaded. No steps."""
