"""Encoders on the CPU: a few clips at a time, whose attention fits its caches, however many are decoded together."""

from dataclasses import fields

import torch
import torch.nn.functional as F

from nota_cli.features.batch import Features
from nota_cli.models.families.salmonn import AudioLM, Encoded

# At once, padding included: 30 s. Attention over several long clips outgrows the caches and takes twice as long.
MOST_FRAMES = 3_000


@torch.inference_mode()
def encode(model: AudioLM, features: Features) -> Features | Encoded:
    """What the encoders make of a batch, in parts of neighbours on the CPU; elsewhere the features as they are."""
    if model.device.type != "cpu":
        return features
    parts = _parts(features.log_mel_lengths.tolist(), MOST_FRAMES)
    if len(parts) == 1:
        return features
    return _joined([model.encode(features.part(part)) for part in parts])


def _parts(lengths: list[int], most: int) -> list[slice]:
    """Neighbours whose frames, each as many as the longest one's, come to no more than `most`, or single clips."""
    found: list[slice] = []
    start, longest = 0, 0
    for place, length in enumerate(lengths):
        longest = max(longest, length)
        if place > start and (place + 1 - start) * longest > most:
            found.append(slice(start, place))
            start, longest = place, length
    return [*found, slice(start, len(lengths))]


def _joined(parts: list[Encoded]) -> Encoded:
    """One batch again, filled up with zeros and False where a part is shorter."""
    whole: dict[str, torch.Tensor | None] = {}
    for name in (field.name for field in fields(Encoded)):
        tensors = [getattr(part, name) for part in parts]
        if tensors[0] is None:
            whole[name] = None
            continue
        longest = max(tensor.size(1) for tensor in tensors)
        padding = [0, 0] * (tensors[0].dim() - 2)
        whole[name] = torch.cat([F.pad(tensor, [*padding, 0, longest - tensor.size(1)]) for tensor in tensors])
    return Encoded(**whole)  # type: ignore[arg-type]  # only what may be None is
