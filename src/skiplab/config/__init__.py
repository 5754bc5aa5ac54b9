"""From a command line to a checked config: schema, rules, grammar, and the words people type."""
