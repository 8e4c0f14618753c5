"""Where the test targets rank, under both protocols, and which differences are more than chance."""
