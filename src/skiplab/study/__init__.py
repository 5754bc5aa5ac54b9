"""Studies: sweeps whose every cell is a run of its own in a stable folder, and what they answer."""
