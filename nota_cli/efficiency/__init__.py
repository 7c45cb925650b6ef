"""What a model costs: bytes, memory, time to first token, time per output token."""
