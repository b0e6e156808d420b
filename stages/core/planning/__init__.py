"""From steps to a plan (`binding`, `plan`), and from a plan and a store to what is done and what is to do (`survey`,
in layers: `survey_views`, `survey_standing`, `survey_jobs`, with their SQL in `survey_sql`)."""
