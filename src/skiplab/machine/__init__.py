"""What a run stands on: devices, cores, memory, signals, streams, and the processes of several ranks."""
