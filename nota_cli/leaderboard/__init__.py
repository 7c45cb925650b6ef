"""Runs joined, ranked, drawn and sent."""
