"""A plan run (`run`) by an `executor`, the rows that runs leave (`runs`), and where results come from (`lineage`)."""
