"""Rules beside which a gain must stand: they know which items a user has had, and no more."""
