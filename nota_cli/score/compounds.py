"""Word edits where a word written in two is no error: `ice cream` equals `icecream`, as on the Open ASR Leaderboard."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nota_cli.score.wer import ClipEdits, Step, align

Place = tuple[int, int]
"""How many words of the reference and of the hypothesis lie before it."""
Joins = dict[Place, list[Place]]
"""Where joined words end that equal one word of the other side -> where they begin."""


def align_compounds(hypothesis: tuple[str, ...], reference: tuple[str, ...]) -> ClipEdits:
    """The fewest word edits when neighboring words of one side may be read together to equal one word of the other.

    This is the count of kaldialign's `edit_distance(merge_compounds=True)`, which the leaderboard calls; the words of
    the reference are counted as they are written. In the alignment both sides have the joined word.
    """
    joins = _joins(hypothesis, reference)
    if not joins:
        return align(hypothesis, reference)
    costs = _costs(hypothesis, reference, joins)
    steps, counts = _walk_back(hypothesis, reference, joins, costs)
    return ClipEdits(int(costs[-1, -1]), len(reference), *counts, hypothesis, reference, tuple(steps))


def _joins(hypothesis: Sequence[str], reference: Sequence[str]) -> Joins:
    found: Joins = defaultdict(list)
    for start, end, other in _equal_runs(reference, hypothesis):
        found[end, other + 1].append((start, other))
    for start, end, other in _equal_runs(hypothesis, reference):
        found[other + 1, end].append((other, start))
    return found


def _equal_runs(several: Sequence[str], one: Sequence[str]) -> list[tuple[int, int, int]]:
    """Start and end of two or more neighbors that make up a word of the other side, and that word's index."""
    places = defaultdict(list)
    for index, word in enumerate(one):
        places[word].append(index)
    longest = max(map(len, one), default=0)
    runs = []
    for start in range(len(several)):
        joined = several[start]
        for end in range(start + 2, len(several) + 1):
            joined += several[end - 1]
            if len(joined) > longest:
                break
            runs += [(start, end, index) for index in places.get(joined, ())]
    return runs


def _costs(hypothesis: Sequence[str], reference: Sequence[str], joins: Joins) -> NDArray[np.int32]:
    """The fewest edits between the first words of the reference (rows) and of the hypothesis (columns)."""
    codes = {word: code for code, word in enumerate({*hypothesis, *reference})}
    heard = np.array([codes[word] for word in hypothesis])
    columns = np.arange(len(hypothesis) + 1)
    by_row: dict[int, list[tuple[int, Place]]] = defaultdict(list)
    for (row, column), origins in joins.items():
        by_row[row] += [(column, origin) for origin in origins]
    costs = np.empty((len(reference) + 1, len(hypothesis) + 1), np.int32)
    costs[0] = columns
    for row, word in enumerate(reference, 1):
        above = costs[row - 1]
        current = costs[row]
        current[0] = row
        np.minimum(above[1:] + 1, above[:-1] + (heard != codes[word]), out=current[1:])
        for column, origin in by_row[row]:
            current[column] = min(current[column], costs[origin])
        current[:] = np.minimum.accumulate(current - columns) + columns  # insertions, along the row
    return costs


def _walk_back(
    hypothesis: Sequence[str], reference: Sequence[str], joins: Joins, costs: NDArray[np.int32]
) -> tuple[list[Step], tuple[int, int, int]]:
    """One cheapest alignment, and its substitutions, insertions and deletions."""
    row, column = len(reference), len(hypothesis)
    steps: list[Step] = []
    substitutions = insertions = deletions = 0
    while row or column:
        cost = costs[row, column]
        word, heard = reference[row - 1] if row else None, hypothesis[column - 1] if column else None
        if row and column and word == heard and costs[row - 1, column - 1] == cost:
            row, column = row - 1, column - 1
            steps.append((word, heard))
        elif origin := next((each for each in joins.get((row, column), ()) if costs[each] == cost), None):
            joined = "".join(reference[origin[0] : row])
            row, column = origin
            steps.append((joined, joined))
        elif row and column and costs[row - 1, column - 1] + 1 == cost:
            row, column, substitutions = row - 1, column - 1, substitutions + 1
            steps.append((word, heard))
        elif row and costs[row - 1, column] + 1 == cost:
            row, deletions = row - 1, deletions + 1
            steps.append((word, None))
        else:
            column, insertions = column - 1, insertions + 1
            steps.append((None, heard))
    return steps[::-1], (substitutions, insertions, deletions)
