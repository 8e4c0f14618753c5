"""All that knows RecBole's inside: patches, trainers, registration, one experiment step by step."""
