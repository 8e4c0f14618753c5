"""The paper's experiments (§5)."""
