"""Weights in 8 and 4 bits: read, imitated with random numbers, and run."""
