"""The one decode of each source (`signals`), what it measures on each frame (`frames`), the table that keeps it
(`store`), and what a clip's scores are made of (`aggregate`)."""
