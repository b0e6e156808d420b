"""The tables and the page that show a store."""
