"""One class for each family of audio language models."""
