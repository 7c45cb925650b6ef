"""Processor cores: how many this process may use, how threads wait for one, and whether others use them, too."""

import os

BUSY = 1.5  # processes that want a core, of each core, from which on times say little


def usable_cores() -> int:
    """How many there are, in a container often fewer than the machine has; all of these if the system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def let_idle_threads_sleep() -> None:
    """Make OpenMP's threads sleep between products instead of spinning; call it before torch is imported.

    Spinning gains microseconds on a machine of one's own. Where two programs share the cores, each waits for threads
    that the other's spinning keeps off them: a network of small layers was 10 to 20 times slower for it.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def busy_cores() -> str | None:
    """A sentence on other programs that keep the cores busy, or None."""
    load, cores = os.getloadavg()[0], usable_cores()
    if load <= BUSY * cores:
        return None
    return f"other programs keep this machine busy ({load:.1f} processes want one of {cores} cores): times are too long"
