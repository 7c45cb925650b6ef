"""Rows to texts, and runs that survive what may happen to them."""
