"""Sound files."""

from pathlib import Path

import numpy as np
import soundfile


def write(path: Path, samples: np.ndarray, rate: int = 16_000, **options: str) -> Path:
    """Write `samples` `[time]` or `[time, channels]`; `options` are soundfile's."""
    soundfile.write(path, samples, rate, **options)
    return path
