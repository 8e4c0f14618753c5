"""Information reconstruction (paper §4.1): from a trained backbone to a fine-tuned language model.

A user's training history (:mod:`.histories`) and the preliminary latent categories of the items
(:mod:`.categories`, k-means on the trained item embeddings) give the user's prior preference
distribution (:mod:`.preferences`), which the language model then learns to predict.
"""
