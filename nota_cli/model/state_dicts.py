"""State dicts as people save them: in a wrapper entry or bare, with the prefixes of DDP, FSDP or `torch.compile`."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nota_cli.console import say
from nota_cli.errors import CheckpointError

WRAPPERS = ("model", "state_dict", "model_state_dict", "module", "net", "network", "weights", "params")
"""Entries that hold the weights; the first that is there counts. The teams' files have `model`."""
WRAPPING_MODULES = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
# What DDP, torch.compile, FSDP, activation checkpointing and Lightning put into names, at any place in them.
SHELL = re.compile(r"(^|(?<=\.))(" + "|".join(WRAPPING_MODULES) + r")\.")
KEY_MAPPING = {r"(^|\.)((" + "|".join(WRAPPING_MODULES) + r")\.)+": r"\1"}
"""The same for transformers' `from_pretrained(key_mapping=...)`."""
FIRST_KEYS = 5


def find_weights(content: Any, path: str | Path) -> dict[str, Tensor]:
    """The tensors of a loaded `.pth` by name, out of the entry that holds them; anything but `model` is mentioned.

    Raises:
        CheckpointError: there are no tensors, or no telling which entry holds the weights; the first keys are listed.
    """
    entry: list[str] = []
    while isinstance(content, Mapping):
        holders = [str(key) for key, value in content.items() if isinstance(value, Mapping) and _holds_tensors(value)]
        known = [name for name in WRAPPERS if name in holders]
        bare = any(isinstance(value, Tensor) for value in content.values())
        if not known and (bare or len(holders) != 1):
            break
        entry.append(known[0] if known else holders[0])
        content = content[entry[-1]]
    tensors = {}
    if isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(
            f"{path} has no `model` entry with weights, nor one under another usual name; it holds "
            f"{_described(content)}. Save it as torch.save({{'model': model.state_dict()}}, FILE)."
        )
    if entry != ["model"]:
        say(f"{path}: weights taken from " + (f"its entry {'.'.join(entry)}" if entry else "a bare state dict"))
    return tensors


def plain_names(
    tensors: Mapping[str, Tensor],
    path: str | Path,
    known: Collection[str],
    own_name: Callable[[str], str] = lambda name: name,
) -> dict[str, Tensor]:
    """The tensors by the model's names, without what DDP, `torch.compile` and their like have put into them.

    A first component that all names share (`model.`) is dropped as well where more names are known without it.

    Args:
        tensors: as in the file.
        path: of the file, for the message on stderr that says what was stripped.
        known: the model's names.
        own_name: a name in the file, nothing but its prefixes stripped, to the model's.

    Raises:
        CheckpointError: two names become one.
    """
    known = set(known)
    stripped: dict[str, str] = {}  # name in the file: the same without prefixes
    dropped: set[str] = set()
    for name in tensors:
        bare = name if own_name(name) in known else SHELL.sub("", name)
        dropped.update(match[0] for match in SHELL.finditer(name) if bare != name)
        stripped[name] = bare
    while len(heads := {name.partition(".")[0] for name in stripped.values()}) == 1:
        (head,) = heads
        shorter = {name: bare.partition(".")[2] for name, bare in stripped.items()}
        if _count(shorter.values(), own_name, known) <= _count(stripped.values(), own_name, known):
            break
        dropped.add(f"{head}.")
        stripped = shorter
    named: dict[str, Tensor] = {}
    for name, bare in stripped.items():
        if own_name(bare) in named:
            raise CheckpointError(f"{path}: {bare} is there twice, once as {name}. Save the state dict of one model.")
        named[own_name(bare)] = tensors[name]
    if dropped:
        say(f"{path}: {' and '.join(sorted(dropped))} stripped from the names of its weights")
    return named


def without_wrapping_modules(name: str) -> str:
    """A weight's name as it is without DDP, FSDP and `torch.compile`."""
    return SHELL.sub("", name)


def example_names(names: Iterable[str]) -> str:
    """The first few names, for messages."""
    names = sorted(names)
    more = len(names) - FIRST_KEYS
    return ", ".join(names[:FIRST_KEYS]) + (f" and {more} more" if more > 0 else "") if names else "none"


def _holds_tensors(content: Mapping[Any, Any]) -> bool:
    return any(
        isinstance(value, Tensor) or (isinstance(value, Mapping) and _holds_tensors(value))
        for value in content.values()
    )


def _count(names: Iterable[str], own_name: Callable[[str], str], known: set[str]) -> int:
    return sum(own_name(name) in known for name in names)


def _described(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    kinds = [f"{key} ({type(value).__name__})" for key, value in list(content.items())[:FIRST_KEYS]]
    return f"{len(content)} entries: {', '.join(kinds)}" if kinds else "an empty dictionary"
