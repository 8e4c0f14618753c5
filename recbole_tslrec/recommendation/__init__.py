"""After training: recommendations, items alike, new items, a page to look at."""

# What the commands take, here so that their help need not wait for torch.
# What a history may end before.
HELD_OUT = ("validation", "test")
# What becomes of items in a given history that the model does not know.
UNKNOWN_ITEMS = ("refuse", "skip")
# How the best items are looked for.
INDEXES = ("auto", "none", "exact", "approximate")
# Under which vectors items are alike.
ITEM_TABLE, E_V, H_V, TEXT = UNDER = ("item_table", "e_v", "h_v", "text")
