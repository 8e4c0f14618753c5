"""After training: recommendations, items alike, new items, a page to look at."""
