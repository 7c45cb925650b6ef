"""nota: train, run, score and measure small audio language models."""

__version__ = "0.1.0"
