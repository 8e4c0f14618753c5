"""One folder a paradigm: what a paper adds to a recommender, on the parts that all of them share."""
