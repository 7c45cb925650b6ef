"""Rows of tables in Markdown."""

from collections.abc import Sequence


def markdown_row(cells: Sequence[str]) -> str:
    """One row; cells of a rule, such as `---:`, stay as they are."""
    return "| " + " | ".join(cell if set(cell) <= set("-:") else markdown_text(cell) for cell in cells) + " |"


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    for mark in "\\|*_`<[":
        text = text.replace(mark, "\\" + mark)
    return text.replace("\n", " ")
