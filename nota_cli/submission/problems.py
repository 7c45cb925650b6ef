"""What can be wrong with a submission: every kind with its code, severity and remedy, and the log that counts them."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

ERROR, WARNING = "error", "warning"
LIMIT = 1_000
"""So many problems of a kind are kept; the others are counted."""

KINDS: dict[str, tuple[str, str]] = {
    # the file
    "empty-file": (ERROR, "Write the header testset_id,text and a row for every clip."),
    "not-text": (ERROR, "Export the table as CSV in UTF-8 from the program that made it."),
    "utf-16": (ERROR, "Save the file as CSV in UTF-8."),
    "encoding": (ERROR, "Save the file as CSV in UTF-8."),
    "nul": (ERROR, "Remove the NUL characters; the file may have been cut off or copied wrongly."),
    "bom": (WARNING, "Save as UTF-8 without a byte order mark; pandas skips it, other readers do not."),
    "bare-cr": (WARNING, "Save with Unix line ends; readers that end lines at a line feed see one long line."),
    "mixed-line-ends": (WARNING, "Save with one kind of line end throughout."),
    # the table
    "delimiter": (ERROR, "Separate the columns with commas."),
    "header": (ERROR, "Make the first line testset_id,text."),
    "no-rows": (ERROR, "Write a row for every clip below the header."),
    "unclosed-quote": (ERROR, "Close the quote or remove it; a quote inside a quoted text is doubled."),
    "stray-quote": (WARNING, "Put the whole text in quotes and double those inside."),
    "no-text": (ERROR, "Add the text after a comma."),
    "extra-fields": (ERROR, "Put a text that has commas in double quotes."),
    # ids
    "bad-id": (ERROR, "Write `test` and four digits, like test0000."),
    "duplicate-id": (ERROR, "Keep one row for each id."),
    "unknown-id": (ERROR, "Remove the row, or give the annotation that this file answers."),
    "missing-id": (ERROR, "Add a row for each id of the annotation."),
    # texts
    "empty-text": (ERROR, "Write at least a word."),
    "nan-text": (ERROR, "Change the text, if only from capitals to small letters: pandas reads it as missing."),
    "column-type": (ERROR, "Write at least one text in words: pandas reads such a column as no strings."),
    "blank-text": (WARNING, "Write at least a word; a text of blanks scores as an empty one."),
    "line-break": (WARNING, "Write each text on one line."),
    "control-character": (WARNING, "Remove it; it counts as part of a word."),
    "invisible-character": (WARNING, "Write a plain space or nothing; it counts as part of a word."),
    "replacement-character": (WARNING, "Run the model or the export again in UTF-8; the text was decoded wrongly."),
    "long-text": (WARNING, "Look at the text; the organisers' limit of 200 tokens gives about 1,000 characters."),
    "special-token": (WARNING, "Decode with skip_special_tokens and cut at the end symbol."),
    "prompt-leak": (WARNING, "Keep only what follows the prompt."),
    "loop": (WARNING, "Look at the text; more beams or a repetition penalty break loops."),
    "repeated-text": (WARNING, "Look whether the model heard the clips at all."),
    "other-task": (WARNING, "Look whether the right file and prompt were used."),
    # two files
    "same-texts": (WARNING, "Look whether one file was given, or made, twice."),
    "shared-ids": (WARNING, "Give the annotation to see which file has rows of the other task."),
    "swapped-files": (ERROR, "Exchange the two files."),
    "swapped-texts": (WARNING, "Look whether the two files were exchanged."),
}
"""Code -> severity and remedy. Errors: the organisers' reader, or the competition's page, would refuse the file, or
score other rows than are meant. Warnings: it would be taken, and is probably not what was wanted."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a submission.

    Attributes:
        line: its line in the file; the header is line 1.
        id: the row's id.
        message: what is wrong.
        code: the kind, one of `KINDS`.
        column: the character in the line, counted from 1.
        byte: the byte in the file, counted from 0.
    """

    line: int | None
    id: str | None
    message: str
    code: str = ""
    column: int | None = None
    byte: int | None = None

    @property
    def severity(self) -> str:
        """`error` or `warning`."""
        return KINDS[self.code][0] if self.code else ERROR

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return KINDS[self.code][1] if self.code else ""

    def __str__(self) -> str:
        line = "" if self.line is None else f"line {self.line}: "
        return f"{line}{self.message}" + (f". {self.remedy}" if self.remedy else "")

    def as_dict(self) -> dict[str, Any]:
        """For JSON; what is not known is left out, but for line and id."""
        values: dict[str, Any] = {"severity": self.severity, "code": self.code, "line": self.line, "id": self.id}
        positions = (("column", self.column), ("byte", self.byte))
        return values | {"message": self.message, "remedy": self.remedy} | {k: v for k, v in positions if v is not None}


@dataclass
class Log:
    """Problems as they are found: the first `LIMIT` of each kind, and how many; and what separates the columns."""

    problems: list[Problem] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    delimiter: str = ","

    def add(
        self,
        code: str,
        message: str,
        line: int | None = None,
        id: str | None = None,
        *,
        column: int | None = None,
        byte: int | None = None,
    ) -> None:
        """Count a problem, and keep it while there are few of its kind."""
        self.counts[code] += 1
        if self.counts[code] <= LIMIT:
            label = id if id is None or id.isprintable() else printable(id)
            self.problems.append(Problem(line, label, message, code, column, byte))

    def full(self, code: str) -> bool:
        """Whether no more of this kind are kept; if so, one more is counted, and its message need not be made."""
        if self.counts[code] < LIMIT:
            return False
        self.counts[code] += 1
        return True

    def of(self, severity: str) -> int:
        """How many problems of a severity there are."""
        return sum(count for code, count in self.counts.items() if KINDS[code][0] == severity)

    def sorted(self) -> list[Problem]:
        """The problems by line, those of the whole file last."""
        return sorted(self.problems, key=lambda problem: (problem.line is None, problem.line or 0))


def printable(text: str, limit: int | None = None) -> str:
    """The text with all that a screen or JSON cannot hold written as escapes, cut after `limit` characters."""
    escaped = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:limit])
    return escaped + ("…" if limit is not None and len(text) > limit else "")
