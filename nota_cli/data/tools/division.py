"""Annotations divided, drawn from and put together, with a seed: speakers never split, proportions kept."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from nota_cli.errors import DataError, UsageError

Item = dict[str, Any]


def source_of(item: Item) -> str:
    """Where a row comes from: its `source`, or the first folder of its path."""
    parts = PurePosixPath(str(item.get("path", ""))).parts
    return str(item.get("source") or (parts[0] if len(parts) > 1 else "."))


def split(items: Sequence[Item], shares: Mapping[str, float], seed: int = 0) -> dict[str, list[Item]]:
    """Divide rows so that each part has about its share of every task and source.

    All rows of a speaker go to one part; so do all rows of a clip, where no speaker is named.

    Args:
        items: rows of an annotation.
        shares: of the parts, by name; they need not add up to one.
        seed: of the order in which speakers and clips are dealt out.

    Raises:
        UsageError: no part, or a share that is not positive.
        DataError: there are fewer speakers and clips than parts.
    """
    if not shares or any(share <= 0 for share in shares.values()):
        raise UsageError("the parts' shares are positive numbers, for example train=0.8 dev=0.1 test=0.1")
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[f"speaker {item['speaker']}" if item.get("speaker") else f"clip {item.get('path')}"].append(item)
    if len(groups) < len(shares):
        raise DataError(f"{len(groups)} speakers or clips cannot be divided into {len(shares)} parts")
    total = sum(shares.values())
    wanted = {
        name: {stratum: share / total * number for stratum, number in Counter(map(_stratum, items)).items()}
        for name, share in shares.items()
    }
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda name: len(groups[name]), reverse=True)  # large ones first, while there is room everywhere
    parts: dict[str, list[Item]] = {name: [] for name in shares}
    for group in order:
        strata = Counter(map(_stratum, groups[group]))
        # Where the group leaves the least over: the part that lacks most of it, in proportion to what it wants.
        best = max(parts, key=lambda name: sum(wanted[name][each] * count for each, count in strata.items()))
        if any(not part for part in parts.values()) and len(order) - order.index(group) <= sum(
            not part for part in parts.values()
        ):
            best = next(name for name, part in parts.items() if not part)
        parts[best] += groups[group]
        for stratum, count in strata.items():
            wanted[best][stratum] -= count
    item_index = {id(item): number for number, item in enumerate(items)}
    return {name: sorted(part, key=lambda item: item_index[id(item)]) for name, part in parts.items()}


def sample(items: Sequence[Item], count: int, seed: int = 0) -> list[Item]:
    """Draw rows so that every task and source keeps its proportion; in the order of the annotation.

    Raises:
        UsageError: there are fewer rows than that, or `count` is not positive.
    """
    if not 0 < count <= len(items):
        raise UsageError(f"--count {count}: the annotation has {len(items)} rows")
    strata: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        strata[_stratum(item)].append(number)
    rng = random.Random(seed)
    exact = {stratum: count * len(numbers) / len(items) for stratum, numbers in strata.items()}
    quota = {stratum: int(share) for stratum, share in exact.items()}
    by_rest = sorted(strata, key=lambda stratum: (quota[stratum] - exact[stratum], stratum))
    for stratum in by_rest[: count - sum(quota.values())]:
        quota[stratum] += 1
    chosen = [number for stratum in sorted(strata) for number in rng.sample(strata[stratum], quota[stratum])]
    return [items[number] for number in sorted(chosen)]


def merge(sources: Sequence[tuple[Sequence[Item], str]]) -> list[Item]:
    """Rows of several annotations one behind the other, their paths below one audio root.

    Args:
        sources: rows of each, and the folder below the common root that its paths are relative to ("" for the root).

    Returns:
        The rows; ids that two of them share are numbered anew, all of them.
    """
    merged = [dict(_below(item, folder)) for items, folder in sources for item in items]
    ids = Counter(str(item["testset_id"]) for item in merged if "testset_id" in item)
    if any(number > 1 for number in ids.values()):
        for number, item in enumerate(merged):
            item["testset_id"] = f"test{number:04d}"
    return merged


def _below(item: Item, folder: str) -> Iterator[tuple[str, Any]]:
    for key, value in item.items():
        if key == "path" and folder:
            value = str(Path(folder) / value)
        elif key == "expand_wav" and folder:
            value = [str(Path(folder) / name) for name in value]
        yield key, value


def _stratum(item: Item) -> tuple[str, str]:
    return str(item.get("task", "")), source_of(item)
