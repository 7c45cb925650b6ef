"""Encoders, connector, decoder and their composition."""
