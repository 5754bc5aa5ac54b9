"""What a user types: `train`, and `skiplab` with its verbs. Each verb is a file."""
