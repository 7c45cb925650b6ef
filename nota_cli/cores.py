"""Processor cores that this process may use, which in a container are often fewer than the machine has."""

import os


def usable_cores() -> int:
    """How many there are; all of the machine's where the system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
