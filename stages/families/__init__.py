"""Model families, one folder each, and what they share: what a family must be (`contract`), what a checkpoint offers
(`offers`), the one loader (`loading`) and what libraries say while they load (`load_report`)."""
