"""What comes before a model's own training: steps that are kept, found again, and made when missing."""
