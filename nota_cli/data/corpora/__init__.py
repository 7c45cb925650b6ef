"""Corpora on disk to annotation files, and what judges their labeled rows."""
