"""Files of weights read without running anything, and held against what a model wants."""
