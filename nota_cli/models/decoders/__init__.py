"""The language model and its tokenizer."""
