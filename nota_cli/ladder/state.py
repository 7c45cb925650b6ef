"""What a ladder has finished, so that the same command goes on where an earlier one was killed."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nota_cli.errors import DataError, UsageError
from nota_cli.files import lock, write_text
from nota_cli.parsing import decode, parse_json

STATE_FILE, LOCK_FILE = "state.json", ".lock"
FORMAT = 1


@dataclass
class State:
    """`state.json` of a ladder's folder: which system it is of, and what each step depends on.

    A step is begun by putting its key there, once older outputs are gone. Its last output appears whole or not at all;
    with the same key it is finished.

    Attributes:
        folder: the ladder's.
        source: digits that change with the system's recipe and weights.
        steps: key of each step, finished or begun.
    """

    folder: Path
    source: str
    steps: dict[str, str] = field(default_factory=dict)

    def is_finished(self, step: str, key: str, last_output: Path) -> bool:
        """Whether the step was done, with nothing changed since that it depends on."""
        return self.steps.get(step) == key and last_output.exists()

    def begin(self, step: str, key: str, outputs: Sequence[Path]) -> None:
        """Put a step on record that is about to be done; what it left under another key is removed.

        Args:
            step: its name.
            key: digits that change with what it depends on.
            outputs: files and folders that it writes, a journal among them.

        Raises:
            DataError: one is there that no ladder of this state has written.
        """
        if self.steps.get(step) == key:
            return
        for path in outputs:
            if step not in self.steps and path.exists():
                raise DataError(f"{path} is there, and is not this ladder's. Remove it, or choose another --out.")
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        self.steps[step] = key
        self.write()

    def write(self) -> None:
        """Write it, whole or not at all."""
        values = {"nota_ladder": FORMAT, "source": self.source, "steps": self.steps}
        write_text(self.folder / STATE_FILE, json.dumps(values, indent=1) + "\n")


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Inside, no other ladder works in the folder, which is made if it is not there.

    Raises:
        UsageError: another one does, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_FILE).open("w")
    except OSError as error:
        raise UsageError(f"--out: cannot write {folder}: {error.strerror}. Choose another folder.") from error
    with file:
        try:
            lock(file, wait=False)
        except BlockingIOError:
            raise UsageError(f"--out: another nota ladder is at work in {folder}. Wait for it.") from None
        yield


def open_state(folder: Path, source: str) -> State:
    """The state of an earlier run of the same system, or a new one.

    Raises:
        UsageError: the folder is another system's, or its state cannot be read.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return State(folder, source)
    try:
        values = parse_json(decode(path.read_bytes()))
        known = values["nota_ladder"] == FORMAT and all(isinstance(key, str) for key in values["steps"].values())
        before, steps = values["source"], dict(values["steps"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: not the state of a ladder ({error}). Choose another --out, or remove it.") from error
    if not known:
        raise UsageError(f"{path}: of another version of nota. Choose another --out, or remove that folder.")
    if before != source:
        raise UsageError(
            f"--out: {folder} holds the ladder of another system, or this one's recipe or weights have changed since. "
            "Choose another folder, or remove it."
        )
    return State(folder, source, steps)
