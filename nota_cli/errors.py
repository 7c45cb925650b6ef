"""The kinds of error a user can act on; the command line turns each into one message and an exit status."""

from collections.abc import Iterable, Sequence

MOST_RANGES = 2_000  # of row numbers in one line: a hundredth of 100,000 rows, spread evenly, is named whole


class NotaError(Exception):
    """Something went wrong that the user can mend; the message names what, where and the remedy."""

    exit_code = 1


class UsageError(NotaError):
    """The command was called in a way that cannot work (exit status 2)."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe is missing, or has unknown keys or values out of range."""


class DataError(NotaError):
    """An annotation or audio file cannot be used; the message names the file and the row."""


class AudioError(DataError):
    """One sound file cannot be used.

    Attributes:
        path: the file, as it is shown.
        reason: what is wrong with it, in a few words.
        remedy: what to do about it, a sentence.
        row: which row of the annotation names it, where that is known.
    """

    def __init__(self, path: str, reason: str, remedy: str, row: int | str | None = None) -> None:
        super().__init__(path, reason, remedy, row)  # all of it, so that it crosses process borders whole
        self.path, self.reason, self.remedy, self.row = path, reason, remedy, row

    def __str__(self) -> str:
        where = self.path if self.row is None else f"{self.path} (annotation row {self.row})"
        return f"{where}: {self.reason}. {self.remedy}"


class AudioWarning(UserWarning):
    """A recording can be read, and what is heard of it is hardly what was meant; the message names it."""


class CheckpointError(NotaError):
    """Weights do not fit the model they are loaded into."""


def listing(problems: list[str], limit: int = 20) -> str:
    """One problem a line, cut after `limit` with a count of the rest."""
    lines = [f"  - {problem}" for problem in problems[:limit]]
    if len(problems) > limit:
        lines.append(f"  ... and {len(problems) - limit} more")
    return "\n".join(lines)


def listing_by_row(problems: Iterable[tuple[int, str]], limit: int = 20) -> str:
    """Problems of rows, those that read alike on one line; beyond `limit` lines the rows are still named, by number."""
    rows: dict[str, list[int]] = {}
    for row, problem in problems:
        rows.setdefault(problem, []).append(row)
    kinds = sorted(rows.items(), key=lambda kind: min(kind[1]))
    lines = [f"  - {row_numbers(sorted(numbers))}: {problem}" for problem, numbers in kinds[:limit]]
    rest = sorted({row for _, numbers in kinds[limit:] for row in numbers})
    if rest:
        count = sum(len(numbers) for _, numbers in kinds[limit:])
        lines.append(f"  ... and {count} more problems: {row_numbers(rest)}")
    return "\n".join(lines)


def row_numbers(rows: Sequence[int]) -> str:
    """`row 3` or `rows 3, 7-9`: sorted row numbers, neighbours as ranges."""
    ranges: list[list[int]] = []
    for row in rows:
        if ranges and row <= ranges[-1][1] + 1:
            ranges[-1][1] = row
        else:
            ranges.append([row, row])
    named = [str(first) if first == last else f"{first}-{last}" for first, last in ranges[:MOST_RANGES]]
    if len(ranges) > MOST_RANGES:
        left = sum(last - first + 1 for first, last in ranges[MOST_RANGES:])
        named.append(f"and {left} more up to {ranges[-1][1]}")
    return f"{'row' if rows[0] == rows[-1] else 'rows'} {', '.join(named)}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message without its full stop; the name of its class where it has no message."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__


def printable(text: str) -> str:
    """`text` on one line for any terminal and encoding: controls, and bytes of names that are not UTF-8, escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
