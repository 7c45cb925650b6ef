"""What becomes of rows whose audio cannot be used: the run stops, or they are filled in, or left out."""

from collections.abc import Callable, Sequence
from typing import Literal

from nota_cli.console import warn
from nota_cli.data.annotation import Row, row_id
from nota_cli.data.audio.headers import FileProblem, describe
from nota_cli.errors import DataError
from nota_cli.inference.journal import BLANK, SKIPPED, Entry

OnError = Literal["stop", "blank", "skip"]
REMEDY = (
    "Mend them, or go on without them: --on-error blank writes a text of the recipe's, --on-error skip leaves them out."
)


class Policy:
    """How a run takes bad audio.

    Args:
        on_error: `stop`; `blank` fills in `fallback`; `skip` leaves the row out.
        rows: annotation rows, by position.
        fallback: a task's text for clips that cannot be read.
    """

    def __init__(self, on_error: OnError, rows: Sequence[Row], fallback: Callable[[str], str]) -> None:
        self.on_error, self.rows, self.fallback = on_error, rows, fallback

    def before(self, bad: Sequence[FileProblem]) -> list[Entry]:
        """What becomes of rows that were found bad before the run.

        Raises:
            DataError: the run stops; the message names all of them.
        """
        if not bad:
            return []
        count = len({each.row for each in bad})
        problem = f"{count} {'row has' if count == 1 else 'rows have'} audio that cannot be used"
        if not bad[0].listed:
            problem = f"{count} {'recording' if count == 1 else 'recordings'} cannot be used"
        if self.on_error == "stop":
            raise DataError(f"{problem}:\n{describe(bad)}\n{REMEDY}")
        warn(f"{problem} and {self._fate(count)}:\n{describe(bad)}")
        reasons: dict[int, str] = {}
        for each in bad:
            reasons[each.row] = f"{reasons[each.row]} {each.problem}" if each.row in reasons else each.problem
        positions = {row.index: position for position, row in enumerate(self.rows)}
        return [self._entry(positions[index], reason) for index, reason in reasons.items()]

    def during(self, bad: Sequence[tuple[int, str]]) -> list[Entry]:
        """What becomes of rows, by position, whose audio turned out bad when it was decoded, and why.

        Raises:
            DataError: the run stops.
        """
        if bad and self.on_error == "stop":
            reasons = "\n".join(reason for _, reason in bad)
            raise DataError(
                f"{reasons}\nThe run stops here. Finished rows are kept, and the same command goes on with the rest. "
                f"{REMEDY}"
            )
        for position, reason in bad:
            row = self.rows[position]
            name = f"row {row.index} ({row_id(row)})" if row.listed else row_id(row)
            warn(f"{name} {self._fate(1)}: {reason}")
        return [self._entry(position, reason) for position, reason in bad]

    def _fate(self, count: int) -> str:
        if self.on_error == "blank":
            return "gets the fallback text" if count == 1 else "get the fallback text"
        return "is left out" if count == 1 else "are left out"

    def _entry(self, position: int, reason: str) -> Entry:
        if self.on_error == "skip":
            return Entry(position, "", SKIPPED, reason=reason)
        return Entry(position, self.fallback(self.rows[position].task), BLANK, reason=reason)
