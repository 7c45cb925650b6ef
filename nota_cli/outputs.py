"""No command writes over what it reads: one check of all outputs against all inputs, made before the work."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from nota_cli.errors import UsageError, printable

Identity = tuple[int | str, ...]
"""Device and inode of a file that exists; of one that does not, those of the nearest folder and the names below it."""


@dataclass(frozen=True, slots=True)
class Input:
    """A file or folder that a command reads.

    Attributes:
        label: what it is, for messages: `the annotation`.
        path: where it is; it may be absent, as far as this check is concerned.
        whole: it is a folder whose files belong together, such as a checkpoint, so that nothing may be added to it.
    """

    label: str
    path: Path
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Output:
    """A file that a command writes, or a folder that it writes as a whole.

    Attributes:
        option: the option that names it: `--out`.
        path: where it is.
        replaced: it is a folder, and what is in it now will not be.
    """

    option: str
    path: Path
    replaced: bool = False


def check_outputs(outputs: Sequence[Output], inputs: Iterable[Input]) -> None:
    """Refuse outputs that are inputs, by whatever name: links, hard links, other spellings of a path.

    Also refused are an output inside an input that is a whole, an input inside an output folder, and two outputs that
    are one file.

    Args:
        outputs: everything that the command writes, reports and journals beside a file included.
        inputs: everything that it reads. Recordings may be many: the iterable is read once.

    Raises:
        UsageError: naming the option, the path and what it is.
    """
    by_identity: dict[Identity, Output] = {}
    around: dict[Identity, Output] = {}  # folders that an output lies in
    for output in outputs:
        by_identity[_identity(output.path)] = output
        for folder in _around(output.path):
            around.setdefault(_identity(folder), output)
    folders = {key for key, output in by_identity.items() if output.replaced and output.path.is_dir()}
    for known in inputs:
        key = _identity(known.path)
        if (same := by_identity.get(key)) is not None:
            raise _refusal(same, f"is {known.label}, which would be lost")
        if known.whole and known.path.is_dir():
            if (inside := around.get(key)) is not None:
                where = printable(str(known.path))
                raise _refusal(inside, f"lies inside {known.label} {where}, which would be changed")
            for file in known.path.rglob("*"):
                if (part := by_identity.get(_identity(file))) is not None:
                    raise _refusal(part, f"is part of {known.label} {printable(str(known.path))}")
        for folder in _around(known.path) if folders else ():
            if (key := _identity(folder)) in folders:
                where = printable(str(known.path))
                raise _refusal(by_identity[key], f"holds {known.label} {where}, which would be lost")
    for one, other in combinations(outputs, 2):
        if _identity(one.path) == _identity(other.path):
            raise _refusal(one, f"and {printable(str(other.path))} are one file, and both would be written")


def _refusal(output: Output, reason: str) -> UsageError:
    return UsageError(f"{output.option}: {printable(str(output.path))} {reason}. Choose another output path.")


def _around(path: Path) -> Sequence[Path]:
    """The folders that a path lies in, links resolved."""
    try:
        return Path(os.path.realpath(path)).parents
    except ValueError:  # a NUL in the name, which no file can have
        return ()


def _identity(path: Path) -> Identity:
    try:
        status = os.stat(path)  # of most paths this is all that is needed
        return (status.st_dev, status.st_ino)
    except (OSError, ValueError):  # absent, or a name that no file can have
        pass
    below: list[str] = []
    try:
        real = Path(os.path.realpath(path))
        for here in (real, *real.parents):
            try:
                status = os.stat(here)
            except OSError:
                below.insert(0, here.name)
            else:
                return (status.st_dev, status.st_ino, *below)
    except ValueError:
        pass
    return (str(path),)
