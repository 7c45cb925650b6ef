"""Published weights, as `scripts/real_weights.py` puts them into `weights/`, and real recordings."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nota_cli.data.annotation import read_annotation
from nota_cli.data.audio import load_audio

REPOSITORY = Path(__file__).resolve().parents[2]
SAMPLES = REPOSITORY / "checkpoints" / "tiny" / "samples"
REAL = REPOSITORY.parent / "shared" / "data" / "real"


@pytest.fixture(scope="session")
def weights() -> Callable[[str], Path]:
    """The folder of a published model by name; the test is skipped where it is absent."""

    def folder(name: str) -> Path:
        path = Path(os.environ.get("NOTA_WEIGHTS") or REPOSITORY / "weights") / name
        if not (path / "config.json").is_file():
            pytest.skip(f"needs {path}: run `python scripts/real_weights.py`, or set NOTA_WEIGHTS to where it wrote")
        return path

    return folder


@pytest.fixture(scope="session")
def recordings() -> list[np.ndarray]:
    """Real speech and sounds of different lengths at 16 kHz; the samples that ship where those are absent."""
    if REAL.is_dir():
        names = ("speechocean762/00007", "libri_train_clean/00003", "instruments/00005", "cdda/00002")
        return [load_audio(REAL / f"{name}.opus") for name in names]
    return [load_audio(path) for path in sorted((SAMPLES / "audio").glob("*.flac"))[:4]]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Every text of the real data, or of the samples that ship."""
    files = sorted(REAL.glob("*.json")) if REAL.is_dir() else [SAMPLES / "asr.json", SAMPLES / "aac.json"]
    return [text for file in files for row in read_annotation(file) for text in (row.text, *row.texts) if text]
