"""The loop and the weight update, and what surrounds them: optimizers, averages, evaluation, selection, probe."""
