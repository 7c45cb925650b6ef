"""Worker processes that make items ahead of whoever takes them, and how the items come over."""

import mmap
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.reduction import DupFd
from typing import Any

from nota_cli.errors import NotaError

AHEAD = 4  # items that each worker makes ahead of the device
LOOK_SECONDS = 1.0
LEAST_SHARED = 64 * 2**10  # bytes of an item's arrays from which memory is shared
ALIGNMENT = 64  # bytes: of every array in shared memory


def prefetch(
    make: Callable[[int], Any], order: Sequence[int], workers: int, ahead: int = AHEAD, *, timeout: float = 0.0
) -> Iterator[Any]:
    """What `make` gives for each index, in order.

    Args:
        make: called in the workers.
        order: the indices.
        workers: processes that work ahead; with 0 `make` is called in this one.
        ahead: items that each of them may be ahead.
        timeout: seconds that an item of theirs is waited for; 0: for ever.

    Raises:
        NotaError: what stopped a worker, as the worker raised it; that it died, or that it is stuck.
    """
    if not workers:
        with explain_worker_crash():
            yield from map(make, order)
        return
    import torch
    from torch.utils.data import DataLoader

    items: Any = DataLoader(
        _Guarded(make),  # type: ignore[arg-type]  # it takes whatever has items
        batch_size=None,
        sampler=order,
        collate_fn=_as_it_is,
        num_workers=workers,
        prefetch_factor=ahead,
        timeout=timeout,
        worker_init_fn=partial(_start_worker, os.getpid()),
        generator=torch.Generator(),  # its own, or starting it would move the random state that training resumes from
    )
    with explain_worker_crash():
        for item in items:
            if isinstance(item, NotaError):
                raise item
            yield item.open() if isinstance(item, _SharedItem) else item


@contextmanager
def explain_worker_crash() -> Iterator[None]:
    """Turn torch's word of a worker that died, which comes at any moment, into an error that tells what to do.

    Raises:
        NotaError: a worker died or is stuck, or memory did not do to decode a clip.
    """
    try:
        yield
    except MemoryError as error:
        raise NotaError("there is not memory enough to decode audio: use fewer --workers.") from error
    except RuntimeError as error:
        if "DataLoader timed out" in str(error):
            raise NotaError(
                f"no batch came from the processes that decode audio: {error}. They are stuck, on a file system that "
                "does not answer, say. The last saved state is whole; where batches only take long, raise "
                "train.timeout_minutes or train.workers."
            ) from error
        if "DataLoader worker" not in str(error):
            raise
        raise NotaError(
            f"a process that decodes audio died: {str(error).splitlines()[0].strip()} Out of memory is the usual "
            "cause: use fewer --workers, or 0 to decode in the main process."
        ) from error


class _SharedItem:
    """A pickled item whose arrays lie in memory that the other process maps, not copies.

    The memory belongs to no file system, so that neither a small /dev/shm nor a killed process does harm: torch's own
    way of sharing tensors loses a batch without a word where /dev/shm is full, and a pipe takes 60 times as long.
    """

    def __init__(self, pickled: bytes, sizes: list[int], descriptor: Any) -> None:
        self.pickled, self.sizes, self.descriptor = pickled, sizes, descriptor

    @classmethod
    def of(cls, item: Any) -> "_SharedItem | None":
        """The item packed; None if it is small, or no memory can be shared here, so that it goes through a pipe."""
        buffers: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(item, protocol=5, buffer_callback=buffers.append)
        views = [buffer.raw() for buffer in buffers]
        if not hasattr(os, "memfd_create") or sum(view.nbytes for view in views) < LEAST_SHARED:
            return None
        try:
            descriptor = os.memfd_create("nota-batch")
        except OSError:
            return None
        try:
            with open(descriptor, "wb", buffering=0, closefd=False) as file:
                for view in views:
                    _write(file, view)
            return cls(pickled, [view.nbytes for view in views], DupFd(descriptor))
        except OSError:  # memory does not do for two copies
            return None
        finally:
            os.close(descriptor)

    def open(self) -> Any:
        """The item; its arrays stay in the shared memory, which goes when the last of them does."""
        try:
            descriptor = self.descriptor.detach()
        except (OSError, EOFError) as error:  # the worker hands it over itself
            raise RuntimeError("DataLoader worker is gone with what it had made.") from error
        try:
            shared = memoryview(mmap.mmap(descriptor, sum(map(_aligned, self.sizes))))
        finally:
            os.close(descriptor)
        views, start = [], 0
        for size in self.sizes:
            views.append(shared[start : start + size])
            start += _aligned(size)
        return pickle.loads(self.pickled, buffers=views)  # noqa: S301 - of a process of our own


def _write(file: Any, view: memoryview) -> None:
    """All of a buffer, and zeros up to where the next one begins."""
    done = 0
    while done < view.nbytes:  # a system call takes 2 GB at most
        done += file.write(view[done:])
    file.write(bytes(_aligned(view.nbytes) - view.nbytes))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _as_it_is(item: Any) -> Any:
    """Torch would look into an item for arrays, and make tensors of them."""
    return item


class _Guarded:
    """Carries errors over the process border as values; torch would wrap them in a traceback of its own."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make = make

    def __getitem__(self, index: int) -> Any:
        try:
            item = self.make(index)
        except NotaError as error:
            return error
        return _SharedItem.of(item) or item


def _start_worker(parent: int, _: int) -> None:
    # Ctrl-C reaches all processes of a terminal. One that died of it with its queue full would be waited for.
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this worker when the process that reads from it is gone; one that was killed closes nothing behind it.

    Otherwise a worker waits for ever for somebody to take its last batch.
    """
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os._exit(1)
