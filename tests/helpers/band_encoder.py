"""An audio encoder from outside, in one file: the mean of some bands, a learnt layer or two over it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from nota_cli.models.encoders.base import EncoderEntry, non_default_fields
from nota_cli.recipe.encoders import ENCODERS, EncoderKind

STEP = 16  # frames of 10 ms


@dataclass(frozen=True)
class BandConfig:
    width: int = 8
    layers: int = 2


def bands(waveform: Tensor) -> Tensor:
    """The front end: loudness `[frames, 1]` of each 10 ms."""
    return waveform[: len(waveform) // 160 * 160].reshape(-1, 160).square().mean(1, keepdim=True)


class BandEncoder(nn.Module):
    front_end = staticmethod(bands)

    def __init__(self, config: BandConfig) -> None:
        super().__init__()
        self.config, self.output_dim = config, config.width
        self.into = nn.Linear(1, config.width)
        self.stack = nn.ModuleList(nn.Linear(config.width, config.width) for _ in range(config.layers))

    def forward(self, fbank: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        count = -(-fbank.size(1) // STEP)
        padded = nn.functional.pad(fbank, (0, 0, 0, count * STEP - fbank.size(1)))
        states = self.into(padded.reshape(len(fbank), count, STEP, 1).mean(2))
        for layer in self.stack:
            states = states + layer(states).tanh()
        real = torch.full((len(fbank),), count) if lengths is None else -(-lengths // STEP)
        return states, torch.arange(count, device=fbank.device)[None] < real.to(fbank.device)[:, None]


def _load(path: Path, spec: Any) -> BandEncoder:
    tensors = load_file(path)
    layers = sum(name.startswith("stack.") and name.endswith("weight") for name in tensors)
    encoder = BandEncoder(BandConfig(len(tensors["into.bias"]), layers))
    encoder.load_state_dict(tensors)
    return encoder


ENCODER = EncoderEntry(
    from_config=lambda values, spec: BandEncoder(BandConfig(**values)),
    load=_load,
    layers="stack",
    layer_count="layers",
    config_values=lambda encoder: non_default_fields(encoder.config, ["width", "layers"]),
)


def register() -> None:
    """The line in the registry."""
    ENCODERS["bands"] = EncoderKind("helpers.band_encoder", file_name="bands")
