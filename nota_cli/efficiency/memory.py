"""Memory in use and its peak: what torch allocates on a CUDA device, the resident set of the process on a CPU."""

import ctypes
import gc
import threading
from pathlib import Path
from typing import Protocol

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # what the kernel wants to read there (proc(5))
SAMPLE_SECONDS = 0.002


class Meter(Protocol):
    """Bytes in use and their peak since `restart`; None where the system does not tell."""

    what: str

    def now(self) -> int | None:
        """Bytes in use."""

    def restart(self) -> None:
        """Forget the peak."""

    def peak(self) -> int | None:
        """Most bytes in use since `restart`."""


def meter(device: object) -> Meter:
    """The meter that fits a device, which its `str()` names."""
    return CudaMeter(str(device)) if str(device).startswith("cuda") else ResidentMeter()


class CudaMeter:
    """What torch has allocated on one device; libraries and the CUDA context itself are not in it."""

    what = "CUDA allocations by torch"

    def __init__(self, device: str) -> None:
        import torch

        self.device, self._cuda = device, torch.cuda

    def now(self) -> int:
        """Bytes allocated."""
        return self._cuda.memory_allocated(self.device)

    def restart(self) -> None:
        """Forget the peak."""
        self._cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int:
        """Most bytes allocated since `restart`."""
        return self._cuda.max_memory_allocated(self.device)


class ResidentMeter:
    """The process's resident set, interpreter and libraries included.

    The kernel keeps the peak where it lets us reset it; elsewhere a thread looks every 2 ms and can miss short peaks.
    """

    def __init__(self) -> None:
        self.what = "resident set of the process"
        self._sampled: int | None = None
        self._known = STATUS.exists()
        self._kernel = self._known and self._reset()
        if not self._known:
            self.what = "not measured: this system has no /proc/self/status"
        elif not self._kernel:
            self.what += ", sampled every 2 ms"
            threading.Thread(target=self._watch, args=(threading.main_thread(),), daemon=True).start()

    def now(self) -> int | None:
        """Bytes resident, after what was freed has been given back to the system."""
        if not self._known:
            return None
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim is not None:
            trim(0)
        return self._read("VmRSS")

    def restart(self) -> None:
        """Forget the peak."""
        if self._kernel:
            self._reset()
        else:
            self._sampled = self.now()

    def peak(self) -> int | None:
        """Most bytes resident since `restart`."""
        if self._kernel:
            return self._read("VmHWM")
        return self._sampled

    def _reset(self) -> bool:
        try:
            CLEAR_REFS.write_text(RESET_PEAK)
        except OSError:
            return False
        return True

    def _watch(self, main: threading.Thread) -> None:
        pause = threading.Event()
        while main.is_alive():
            self._sampled = max(self._sampled or 0, self._read("VmRSS"))
            pause.wait(SAMPLE_SECONDS)

    @staticmethod
    def _read(key: str) -> int:
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{key}:"))
        return int(line.split()[1]) * 1024
