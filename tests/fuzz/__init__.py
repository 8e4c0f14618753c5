"""Damaged, odd and hostile inputs, by the hundred, and what may happen to each; see fuzz.py."""
