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
    parts: Callable[[], Sequence[Part]], device: str, recipe: str, sizes: Callable[[], Sequence[Part]] | None = None
) -> Iterator[None]:
    """Inside a model is built; if memory does not do for it, say what it needs by part, what there is, and what to do.

    What the weights need is compared with what is free before anything is read, for some libraries end the process
    where they get no memory, and a system without swap ends it itself.

    Args:
        parts: computes what the model consists of, without allocating it.
        device: where it is built.
        recipe: its name.
        sizes: as `parts`, by arithmetic alone, which takes no time; without it nothing is compared before, but under
            a limit of this process's own.

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
    elif sizes is not None:
        refuse_larger(sizes(), device, recipe)
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


def refuse_larger(parts: Sequence[Part], device: str, recipe: str) -> None:
    """Refuse a model whose weights alone are larger than the memory that is free.

    Raises:
        NotaError: they are.
    """
    if any(sum(part.bytes for part in parts) > there for _, there in memory_there(device)):
        raise _memory_error(parts, device, recipe)


def _memory_error(parts: Sequence[Part], device: str, recipe: str) -> NotaError:
    needed = sum(part.bytes for part in parts)
    rows = [(part.name.replace("_", " "), part.bytes) for part in parts] + [("all weights", needed)]
    rows += memory_there(device)
    width = max(len(name) for name, _ in rows)
    table = "\n".join(f"  {name:<{width}} {size / 1e6:>12,.1f} MB" for name, size in rows)
    largest = max(parts, key=lambda part: part.bytes)
    return NotaError(
        f"out of memory on {device} while loading recipe {recipe}:\n{table}\n"
        f"The largest part is the {largest.name.replace('_', ' ')}. Give it a smaller dtype or quantize it "
        "(nota recipes show), take a smaller recipe, or free memory."
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
