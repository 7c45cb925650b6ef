"""Looking at data, and changing it: checks, FLAC, splits, statistics."""
