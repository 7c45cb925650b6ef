"""Where the repository lies, and what lies in and beside it."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SHIPPED = REPOSITORY / "checkpoints" / "tiny"
SAMPLES = SHIPPED / "samples"
SHARED = REPOSITORY.parent / "shared"  # not in a public clone: tests that read it are skipped there
GOLDEN = SHARED / "golden"
if not GOLDEN.is_dir():  # then the part of it that every clone holds
    GOLDEN = REPOSITORY / "tests" / "golden" / "systems"
CASES = SHARED / "cases"


def golden_clips(system: str) -> list[int]:
    """Numbers of a golden system's recordings `audio/a<number>.*`."""
    return sorted(int(path.stem[1:]) for path in (GOLDEN / system / "audio").iterdir())
