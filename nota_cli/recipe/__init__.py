"""Recipes: one YAML file is one system."""
