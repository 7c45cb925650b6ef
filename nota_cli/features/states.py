"""What frozen encoders make of a batch of clips, for training that need not run them again."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class States:
    """Padded states of a batch; masks are True at real places.

    Attributes:
        speech: [batch, states, width], and `speech_mask` [batch, states].
        audio: the same for the audio encoder, or None.
    """

    speech: Tensor
    speech_mask: Tensor
    audio: Tensor | None = None
    audio_mask: Tensor | None = None

    @classmethod
    def padded(cls, speech: list[Tensor], audio: list[Tensor] | None) -> "States":
        """A batch of clips' own states [states, width] each, filled up with zeros."""
        if audio is None:
            return cls(*_padded(speech))
        return cls(*_padded(speech), *_padded(audio))

    def clips(self) -> list[tuple[Tensor, Tensor | None]]:
        """Each clip's own states, without padding."""
        speech = [states[mask] for states, mask in zip(self.speech, self.speech_mask, strict=True)]
        if self.audio is None or self.audio_mask is None:
            return [(states, None) for states in speech]
        audio = [states[mask] for states, mask in zip(self.audio, self.audio_mask, strict=True)]
        return list(zip(speech, audio, strict=True))

    def to(self, device: torch.device | str) -> "States":
        """The same states on another device."""
        tensors = (self.speech, self.speech_mask, self.audio, self.audio_mask)
        return States(*(None if tensor is None else tensor.to(device) for tensor in tensors))  # type: ignore[arg-type]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as bytes with their type, as numpy has no bfloat16; see `Features.__reduce__`."""
        tensors = (self.speech, self.speech_mask, self.audio, self.audio_mask)
        return _from_bytes, tuple(None if tensor is None else _as_bytes(tensor) for tensor in tensors)


def _padded(clips: list[Tensor]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(clip) for clip in clips])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    return torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), mask


def _as_bytes(tensor: Tensor) -> tuple[Any, torch.dtype, torch.Size]:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy(force=True), tensor.dtype, tensor.shape


def _from_bytes(*packed: tuple[Any, torch.dtype, torch.Size] | None) -> States:
    tensors: list[Any] = [None if it is None else torch.from_numpy(it[0]).view(it[1]).view(it[2]) for it in packed]
    return States(*tensors)
