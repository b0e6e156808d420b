"""Where one shot ends and the next begins (`shots`, as steps `cuts`, `second_opinion` and `listed`), clips between
them, and timelines that editors open."""
