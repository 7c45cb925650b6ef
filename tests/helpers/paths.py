"""Where the repository lies, and what lies in and beside it."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SHIPPED = REPOSITORY / "checkpoints" / "tiny"
SAMPLES = SHIPPED / "samples"
SHARED = REPOSITORY.parent / "shared"  # not in a public clone: tests that read it are skipped there
GOLDEN = SHARED / "golden"
CASES = SHARED / "cases"
