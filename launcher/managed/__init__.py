"""`gptops run`: jobs from the first offer to the last checkpoint at home, over every loss on the way."""
