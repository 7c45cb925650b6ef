"""What was found out about a file, kept as long as the file does not change."""

import os
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Any, TypeVar

T = TypeVar("T")
REMEMBERED = 4_096  # files, so that a long one is not counted anew for each window of it

_known: OrderedDict[tuple[object, ...], Any] = OrderedDict()
_lock = Lock()


def remembered(descriptor: int, read: Callable[[int], T]) -> T:
    """`read(descriptor)`, once for each open file and `read`; threads share it."""
    state = os.fstat(descriptor)
    key = (read, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    with _lock:
        if key in _known:
            _known.move_to_end(key)
            result: T = _known[key]
            return result
    result = read(descriptor)
    with _lock:
        _known[key] = result
        while len(_known) > REMEMBERED:
            _known.popitem(last=False)
    return result
