"""Waveforms to what encoders see."""
