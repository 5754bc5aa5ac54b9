"""Studies: sweeps whose cells are runs in folders that stay, and what they answer."""
