"""Memory that did not do, on a CPU as on CUDA: told apart from other errors, and explained by what needs it."""

import errno
import gc
import os
import resource
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from nota_cli.errors import NotaError
from nota_cli.models.parts import Part

NO_MEMORY: tuple[str, ...] = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "alloc_failed",
)
NO_MEMORY += ("can't start new thread",)  # its stack
"""What torch, CUDA's libraries and safetensors say in errors that have no class of their own."""
MEMINFO, STATM = Path("/proc/meminfo"), Path("/proc/self/statm")
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
CGROUP_USAGE = ("memory.current", "memory.usage_in_bytes")  # beside the limit, by version
CGROUP_CACHE = ("file", "total_cache")  # in memory.stat: what the system gives back when it is needed
MOST_GROWTH = 8  # of weights from disk to memory: 4 bits that are read to float32


def out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it comes from, says that memory, of whichever device, did not do."""
    torch = sys.modules.get("torch")  # without it no error is torch's
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if isinstance(error, (RuntimeError, OSError, SafetensorError)):
        return any(words in str(error).lower() for words in NO_MEMORY)
    return error.__cause__ is not None and out_of_memory(error.__cause__)


@contextmanager
def memory_explained(
    parts: Callable[[], Sequence[Part]], device: str, recipe: str, stored: int | None = 0
) -> Iterator[None]:
    """Inside a model is built; if memory does not do for it, say what it needs by part, what there is, and what to do.

    What the weights alone need is compared before any is read: some libraries end the process where they get no
    memory, and a system without any left ends processes by itself.

    Args:
        parts: computes what the model consists of, without allocating it.
        device: where it is built.
        recipe: its name.
        stored: bytes of its files, None where they are not known. Where they surely fit, whatever type they are read
            into, `parts` is not asked before.

    Raises:
        NotaError: memory does not do.
    """
    if device == "meta":
        yield
        return
    limit = _left_of_limit()
    if limit is not None and device == "cpu":
        needed = list(parts())
        if sum(part.bytes for part in needed) > limit:
            raise _memory_error(needed, device, recipe)
    room = memory_room(device)
    if room is not None and (stored is None or stored * MOST_GROWTH > room):
        needed = _known(parts)
        if sum(part.bytes for part in needed) > room:
            raise _memory_error(needed, device, recipe, room)
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        failure: BaseException | None = error
        while failure is not None:  # what was built so far hangs on the frames, and the explanation needs room
            traceback.clear_frames(failure.__traceback__)
            failure = failure.__cause__ or failure.__context__
        gc.collect()
        raise _memory_error(list(parts()), device, recipe) from error


def _known(parts: Callable[[], Sequence[Part]]) -> list[Part]:
    """The parts; none where they cannot be had, which loading then explains."""
    try:
        return list(parts())
    except NotaError:
        return []


def _memory_error(parts: Sequence[Part], device: str, recipe: str, room: int | None = None) -> NotaError:
    needed = sum(part.bytes for part in parts)
    problem = f"out of memory on {device} while loading recipe {recipe}"
    if room is not None:
        problem = (
            f"recipe {recipe} does not fit into the memory of {device}: its weights alone need {needed / 1e6:,.1f} MB, "
            f"and {room / 1e6:,.1f} MB are free. Nothing was loaded"
        )
    rows = [(part.name.replace("_", " "), part.bytes) for part in parts] + [("all weights", needed)]
    rows += memory_there(device)
    width = max(len(name) for name, _ in rows)
    table = "\n".join(f"  {name:<{width}} {size / 1e6:>12,.1f} MB" for name, size in rows)
    largest = max(parts, key=lambda part: part.bytes)
    return NotaError(
        f"{problem}:\n{table}\n"
        f"The largest part is the {largest.name.replace('_', ' ')}. Give it a smaller dtype or quantize it "
        "(nota recipes show), take a smaller recipe or another --device, or free memory."
    )


def _left_of_limit() -> int | None:
    """Bytes that `ulimit -v` leaves this process; None without such a limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        return None
    try:
        return soft - int(STATM.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):  # no /proc
        return soft


def memory_room(device: str) -> int | None:
    """Bytes that a device, and on a CPU the container too, can still give; None where the system does not tell.

    Rather too much than too little: caches that can be given back, and swap, count as free.
    """
    if device.startswith("cuda"):
        import torch

        if not torch.cuda.is_available():
            return None
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    if device != "cpu":
        return None
    try:
        lines = [line.split() for line in MEMINFO.read_text().splitlines()]
        system = {words[0]: int(words[1]) * 1024 for words in lines if len(words) > 1}
        swap = system["SwapFree:"]
        rooms = [system["MemAvailable:"] + swap]
    except (OSError, ValueError, KeyError):  # a system that does not tell
        return None
    for file, usage, cache in zip(CGROUP_LIMITS, CGROUP_USAGE, CGROUP_CACHE, strict=True):
        try:
            used = int(file.with_name(usage).read_text())
            stat = dict(line.split() for line in file.with_name("memory.stat").read_text().splitlines())
            rooms.append(int(file.read_text()) - used + int(stat[cache]) + swap)
        except (OSError, ValueError, KeyError):  # no limit, or `max`
            continue
    return min(rooms)


def memory_there(device: str) -> list[tuple[str, int]]:
    """Name and bytes of each limit that is known: free memory of the device, and what this process may have."""
    if device.startswith("cuda"):
        import torch

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
