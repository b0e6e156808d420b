"""`rushes render`: campaigns, their prompts and takes, and exported videos."""
