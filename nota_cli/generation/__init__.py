"""Searching for an answer, apart from the networks."""
