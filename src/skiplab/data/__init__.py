"""Data sets: which files count, how they are read and kept, how they become batches on the device."""
