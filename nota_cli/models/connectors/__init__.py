"""What turns encoder states into decoder embeddings."""
