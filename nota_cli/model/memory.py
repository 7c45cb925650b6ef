"""Memory that did not do, on a CPU as on CUDA: told apart from other errors, and explained by what needs it."""

import errno
import os
import resource
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError

from nota_cli.errors import NotaError
from nota_cli.model.inventory import Part

NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "alloc_failed")
"""What torch, CUDA's libraries and safetensors say in errors that have no class of their own."""
MEMINFO = Path("/proc/meminfo")
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it comes from, says that memory, of whichever device, did not do."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if isinstance(error, (RuntimeError, OSError, SafetensorError)):
        return any(words in str(error).lower() for words in NO_MEMORY)
    return error.__cause__ is not None and out_of_memory(error.__cause__)


def memory_error(parts: Sequence[Part], device: str, recipe: str) -> NotaError:
    """What a model needs by part, what there is, and what to do, as one message."""
    needed = sum(part.bytes for part in parts)
    rows = [(part.name.replace("_", " "), part.bytes) for part in parts] + [("all weights", needed)]
    rows += memory_there(device)
    width = max(len(name) for name, _ in rows)
    table = "\n".join(f"  {name:<{width}} {size / 1e6:>12,.1f} MB" for name, size in rows)
    largest = max(parts, key=lambda part: part.bytes)
    return NotaError(
        f"out of memory on {device} while loading recipe {recipe}:\n{table}\n"
        f"The largest part is the {largest.name.replace('_', ' ')}. Give it a smaller dtype or quantise it "
        "(nota recipes show), take a smaller recipe, or free memory."
    )


def memory_there(device: str) -> list[tuple[str, int]]:
    """Name and bytes of each limit that is known: free memory of the device, and what this process may have."""
    if torch.device(device).type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return [("free on the device", free)]
    there = []
    try:
        lines = MEMINFO.read_text().splitlines()
        there += [("free memory", int(line.split()[1]) * 1024) for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):  # a system that does not tell
        pass
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        there.append(("this process's limit (ulimit -v)", soft))
    for file in CGROUP_LIMITS:
        try:
            limit = int(file.read_text())
        except (OSError, ValueError):  # none, or `max`
            continue
        if limit < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
            there.append(("the container's limit", limit))
    return there
