"""Prompts as templates of segments."""
