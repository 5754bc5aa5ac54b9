"""The loop and the weight update, with optimizers, averages, evaluation, selection and probe."""
