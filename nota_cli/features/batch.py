"""Waveforms of a batch to the padded features that the encoders take."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nota_cli.features.constants import BEATS_MEAN, BEATS_STD, WHISPER_SAMPLES
from nota_cli.features.spectrograms import ced_spectrogram, eat_fbank, kaldi_fbank, log_mel

FRONT_ENDS: dict[str, Callable[[Tensor], Tensor]] = {
    "beats": kaldi_fbank,
    "eat": eat_fbank,
    "ced": ced_spectrogram,
    "ced_beats_scaling": partial(ced_spectrogram, mean=BEATS_MEAN, std=BEATS_STD),
}
"""What an audio encoder wants to see of a waveform [samples]: a spectrogram [frames, bins], 100 frames a second."""
FrontEnd = str | Callable[[Tensor], Tensor]
"""One of `FRONT_ENDS` by name, or a function of a module, which pickles, of an encoder's own."""


def front_end_of(front_end: FrontEnd) -> Callable[[Tensor], Tensor]:
    """The function itself: a waveform `[samples]` at 16 kHz to a spectrogram `[frames, bins]`."""
    return FRONT_ENDS[front_end] if isinstance(front_end, str) else front_end


@dataclass(frozen=True)
class Features:
    """Both spectrograms of a batch, zero-padded, with their real lengths in frames of 10 ms.

    Attributes:
        log_mel: [batch, mel bins, frames] and `log_mel_lengths` [batch].
        fbank: [batch, frames, bins], the audio encoder's own (`FRONT_ENDS`), and `fbank_lengths` [batch], or None
            without an audio encoder.
    """

    log_mel: Tensor
    log_mel_lengths: Tensor
    fbank: Tensor | None = None
    fbank_lengths: Tensor | None = None

    def to(self, device: torch.device | str) -> "Features":
        """The same features on another device."""
        fbank = None if self.fbank is None else self.fbank.to(device)
        lengths = None if self.fbank_lengths is None else self.fbank_lengths.to(device)
        return Features(self.log_mel.to(device), self.log_mel_lengths.to(device), fbank, lengths)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as arrays: between processes, torch would put tensors into /dev/shm, however full that is."""
        every = (self.log_mel, self.log_mel_lengths, self.fbank, self.fbank_lengths)
        return _from_arrays, tuple(None if tensor is None else tensor.numpy(force=True) for tensor in every)

    def part(self, chosen: slice) -> "Features":
        """Those of some clips, padded as `extract` pads these alone."""
        lengths = self.log_mel_lengths[chosen]
        longest = int(lengths.max())
        mel = self.log_mel[chosen, :, : longest + longest % 2]
        if self.fbank is None or self.fbank_lengths is None:
            return Features(mel, lengths)
        fbank_lengths = self.fbank_lengths[chosen]
        return Features(mel, lengths, self.fbank[chosen, : int(fbank_lengths.max())], fbank_lengths)


def _from_arrays(*arrays: np.ndarray[Any, Any] | None) -> Features:
    tensors: list[Any] = [None if array is None else torch.from_numpy(array) for array in arrays]
    return Features(*tensors)


def extract(
    waveforms: list[np.ndarray[Any, Any]],
    mel_bins: int,
    *,
    front_end: FrontEnd | None = "beats",
    pad: str = "30s",
    device: torch.device | str = "cpu",
) -> Features:
    """Features of clips at 16 kHz, each computed alone, so that a clip's features never depend on its neighbours.

    Args:
        waveforms: float32 arrays [samples].
        mel_bins: bins of Whisper's log-mel (80 or 128).
        front_end: the audio encoder's (`FrontEnd`), or None without an audio encoder.
        pad: "30s" pads the log-mel's waveform to 30 s, "clip" leaves it at its own length.
        device: where to compute them, and where they lie; lengths stay on the CPU.
    """
    tensors = [torch.from_numpy(np.ascontiguousarray(waveform)).to(device) for waveform in waveforms]
    mels = [log_mel(x, mel_bins, pad_to=WHISPER_SAMPLES if pad == "30s" else None) for x in tensors]
    lengths = torch.tensor([mel.size(-1) for mel in mels])
    batch = mels[0].new_zeros(len(mels), mel_bins, int(lengths.max()) + int(lengths.max()) % 2)
    for row, mel in zip(batch, mels, strict=True):
        row[:, : mel.size(-1)] = mel
    if front_end is None:
        return Features(batch, lengths)
    banks = [front_end_of(front_end)(x) for x in tensors]
    return Features(
        batch,
        lengths,
        torch.nn.utils.rnn.pad_sequence(banks, batch_first=True),
        torch.tensor([len(bank) for bank in banks]),
    )


@dataclass(frozen=True)
class FeatureSpec:
    """What a model's encoders want of waveforms: the arguments of `extract`."""

    mel_bins: int
    front_end: FrontEnd | None
    pad: str
    max_seconds: float
    device: torch.device | None = None
    """Where to make features in the main process; None has the workers that decode audio make them, on the CPU."""

    def features(self, waves: list[np.ndarray[Any, Any]]) -> Features:
        """What the encoders see of clips `[samples]` at 16 kHz, on `device` or else on the CPU."""
        device = self.device or "cpu"
        return extract(waves, self.mel_bins, front_end=self.front_end, pad=self.pad, device=device)
