"""The table of backbones, and those that RecBole does not have."""
