"""Data sets: official files, readers, the cache, splits, and batches on the device."""
