"""Where one shot ends and the next begins, from the signatures of frames alone: cuts, fades, dissolves and wipes."""
