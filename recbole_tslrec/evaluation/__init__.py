"""Evaluation on all items: blocks of users, ranks under both protocols, what is more than chance."""
