"""How a key is declared, checked, fingerprinted and written down; knows no paradigm."""
