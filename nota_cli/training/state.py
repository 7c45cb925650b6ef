"""What a killed training run needs to go on as if nothing had happened, in one safetensors file (no pickle)."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from nota_cli.errors import CheckpointError
from nota_cli.files import atomic_path

STATE_FILE = "state.safetensors"


def save_state(
    folder: Path,
    step: int,
    stamp: str,
    parameters: list[tuple[str, nn.Parameter]],
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor],
) -> None:
    """Write weights, optimizer moments and averaged weights at the end of `step`."""
    tensors = {f"weight/{name}": parameter.detach() for name, parameter in parameters}
    tensors |= {f"average/{name}": tensor for name, tensor in average.items()}
    for name, parameter in parameters:
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}/{name}"] = value
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    with atomic_path(folder / STATE_FILE) as part:
        save_file(copies, part, metadata={"nota": json.dumps({"step": step, "stamp": stamp})})


def load_state(
    folder: Path,
    stamp: str,
    parameters: list[tuple[str, nn.Parameter]],
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor],
) -> int:
    """Put everything back and return the step that was finished last.

    Raises:
        CheckpointError: there is no state, or it belongs to another recipe.
    """
    file = folder / STATE_FILE
    if not file.is_file():
        raise CheckpointError(f"nothing to resume: {file} is not there. Start without --resume.")
    with safe_open(file, framework="pt") as opened:
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
            parameter.copy_(tensors[f"weight/{name}"])
            if name in moments:
                optimizer.state[parameter] = {
                    key: value if key == "step" else value.to(parameter.device) for key, value in moments[name].items()
                }
        for name, tensor in average.items():
            tensor.copy_(tensors[f"average/{name}"])
    return int(saved["step"])
