"""Sound files to clips."""
