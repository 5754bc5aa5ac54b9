"""From a command line to a checked config: the schema, its rules, Hydra's grammar, and the words people type."""
