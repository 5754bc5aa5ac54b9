"""What a run leaves on disk: folder and lock, checkpoints, result, log, report and pictures."""
