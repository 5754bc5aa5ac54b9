"""What a run stands on: devices, cores, memory, signals, streams, and ranks."""
