"""E4SRec (arXiv 2312.02443): the language model itself scores the items."""
