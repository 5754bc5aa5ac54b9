"""What a run leaves on disk: its folder and lock, checkpoints, log, report and pictures."""
