"""Scores, as the organisers print them."""
