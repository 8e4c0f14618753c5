"""Training a causal backbone on whole histories in place of RecBole's prefixes.

RecBole turns a history of n items into n - 1 padded rows and runs each through the whole network. A
causal backbone whose positions count from the left gives the same n - 1 predictions in one pass:
:mod:`.windows` says which items go through the network together and which targets count where,
:mod:`.loader` makes RecBole batches of it, :mod:`.loss` is the loss over all positions. RecBole's
training loop, and evaluation, stay as they are.

Up to ``MAX_ITEM_LIST_LENGTH`` inputs the loss is the prefixes' loss, term by term. A longer history
is cut into windows. There RecBole's prefix holds the last ``MAX_ITEM_LIST_LENGTH`` items before a
target; a window holds at least the stated share of that, at the positions of the window, so the
context of these targets differs and nothing else does. With a share of 1 not even that.

A backbone whose positions count from the latest item (``SASRecPreNormLatest``) is trained so, too, as
its published code is: an item then has the position that it has in the whole window, in every
prediction from it, where in a prefix it would move with the target.
"""
