"""The flows: from a config to a finished run, the command line, Prefect, and what people are shown."""
