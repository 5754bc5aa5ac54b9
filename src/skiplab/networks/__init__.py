"""Every block and every network."""
