"""The language model and the prompts whose slots hold items; nothing here knows what is learned."""
