"""Who computes: the runtimes that encode, prefill and decode."""
