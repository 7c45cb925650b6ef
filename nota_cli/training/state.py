"""What a killed training run needs to go on as if nothing had happened, in one safetensors file (no pickle)."""

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from nota_cli.errors import CheckpointError, NotaError
from nota_cli.files import atomic_path
from nota_cli.training.sharding import own_part, spread_like, whole

STATE_FILE = "state.safetensors"


def save_state(
    folder: Path,
    step: int,
    stamp: str,
    parameters: list[tuple[str, nn.Parameter]],
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor],
    *,
    skipped: int = 0,
    keep: int = 1,
    main: bool = True,
) -> None:
    """Write weights, optimizer moments and averaged weights at the end of `step`.

    Args:
        folder: where the state lies; an earlier one stays whole until this one is.
        step: steps that are done.
        stamp: of the recipe.
        parameters: what is trained.
        optimizer: its moments are written.
        average: averaged weights.
        skipped: steps so far that changed nothing.
        keep: so many states stay; earlier ones have their step in their names.
        main: whether this process writes; the others only give their parts of what is sharded.

    Raises:
        NotaError: there is no room; the state before is as it was.
    """
    tensors = {f"weight/{name}": parameter.detach() for name, parameter in parameters}
    tensors |= {f"average/{name}": tensor for name, tensor in average.items()}
    for name, parameter in parameters:
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}/{name}"] = value
    copies = {}
    for name, tensor in tensors.items():
        full = whole(tensor.detach())
        if main:
            copies[name] = full.cpu().clone().contiguous()
    if not main:
        return
    metadata = {"nota": json.dumps({"step": step, "stamp": stamp, "skipped": skipped})}
    file = folder / STATE_FILE
    try:
        with atomic_path(file) as part:
            save_file(copies, part, metadata=metadata)
            _put_aside(file, keep)
    except SafetensorError as error:
        raise NotaError(
            f"cannot write {file}: {error}. The state saved before is whole: make room there, and --resume."
        ) from error


def drop_states(folder: Path) -> None:
    """Remove the states of a run that is done or thrown away."""
    for file in (folder / STATE_FILE, *_aside(folder)):
        file.unlink(missing_ok=True)


def _aside(folder: Path) -> list[Path]:
    """Earlier states, the newest first."""
    return sorted(folder.glob(f"state-{'[0-9]' * 9}.safetensors"), reverse=True)


def _put_aside(file: Path, keep: int) -> None:
    """Keep the state that is about to be replaced under the name of its step, and the newest `keep` - 1 of those."""
    if keep > 1 and file.is_file():
        with safe_open(file, framework="pt") as opened:
            step = json.loads(opened.metadata()["nota"])["step"]
        older = file.with_name(f"state-{step:09d}.safetensors")
        older.unlink(missing_ok=True)
        try:
            os.link(file, older)
        except OSError:  # a file system without links
            with atomic_path(older) as part:
                shutil.copyfile(file, part)
    for old in _aside(file.parent)[keep - 1 :]:
        old.unlink()


def load_state(
    folder: Path,
    stamp: str,
    parameters: list[tuple[str, nn.Parameter]],
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor],
) -> tuple[int, int]:
    """Put everything back; returns the step that was finished last, and how many were skipped until then.

    Raises:
        CheckpointError: there is no state, or it belongs to another recipe.
    """
    file = folder / STATE_FILE
    if not file.is_file():
        raise CheckpointError(f"nothing to resume: {file} is not there. Start without --resume.")
    try:
        reader = safe_open(file, framework="pt")
    except SafetensorError as error:
        older = _aside(folder)
        remedy = f"Rename {older[0]} to {file.name}, and --resume" if older else "Start again with --restart"
        raise CheckpointError(f"{file} is damaged: {error}. {remedy}.") from error
    with reader as opened:
        saved = json.loads(opened.metadata()["nota"])
        if saved["stamp"] != stamp:
            raise CheckpointError(
                f"{file} was written by a run with another recipe; resume with that one, or drop it by --restart."
            )
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
    moments: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, parameter = name.partition("/")
        if kind.startswith("optimizer."):
            moments.setdefault(parameter, {})[kind.removeprefix("optimizer.")] = tensor
    with torch.no_grad():
        for name, parameter in parameters:
            own_part(parameter).copy_(own_part(spread_like(parameter, tensors[f"weight/{name}"])))
            if name in moments:
                optimizer.state[parameter] = {
                    key: value if key == "step" else spread_like(parameter, value)
                    for key, value in moments[name].items()
                }
        for name, tensor in average.items():
            own_part(tensor).copy_(own_part(spread_like(tensor, tensors[f"average/{name}"])))
    return int(saved["step"]), int(saved.get("skipped", 0))
