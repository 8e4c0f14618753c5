"""One page of HTML to look at a trained model, or two side by side, in a browser without network."""
