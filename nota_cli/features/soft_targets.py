"""What a teacher says of the tokens of answers: probabilities that a student is trained towards."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class SoftTargets:
    """A distribution over the vocabulary for each token of some answers, or its most likely part.

    Attributes:
        log_probs: [tokens, k], float32, at the temperature of the distillation.
        ids: [tokens, k], the vocabulary's entries that they are of.
    """

    log_probs: Tensor
    ids: Tensor

    @classmethod
    def of_logits(cls, logits: Tensor, temperature: float, top_k: int = 0) -> "SoftTargets":
        """Of logits [tokens, vocabulary]: of the `top_k` most likely entries, or of all with 0."""
        log_probs = (logits.float() / temperature).log_softmax(-1)
        k = min(top_k or logits.size(-1), logits.size(-1))
        return cls(*(tensor.contiguous() for tensor in log_probs.topk(k, dim=-1)))

    @classmethod
    def joined(cls, parts: Sequence["SoftTargets"]) -> "SoftTargets":
        """Those of several answers, one after another."""
        return cls(torch.cat([part.log_probs for part in parts]), torch.cat([part.ids for part in parts]))

    def to(self, device: torch.device | str) -> "SoftTargets":
        """The same on another device."""
        return SoftTargets(self.log_probs.to(device), self.ids.to(device))

    def split(self, lengths: Sequence[int]) -> list["SoftTargets"]:
        """Those of each answer, from the number of their tokens."""
        pairs = zip(self.log_probs.split(list(lengths)), self.ids.split(list(lengths)), strict=True)
        return [SoftTargets(*pair) for pair in pairs]

    def divergence(self, logits: Tensor, temperature: float) -> Tensor:
        """Mean Kullback-Leibler divergence of a student's distributions from these, times the temperature squared.

        What is not in the most likely part counts as one more entry, of the teacher and of the student alike. The
        square makes gradients of the size of those of cross-entropy (Hinton et al. 2015).

        Args:
            logits: the student's, [tokens, vocabulary].
            temperature: that these were made at.
        """
        student = (logits.float() / temperature).log_softmax(-1).gather(-1, self.ids)
        terms = (self.log_probs.exp() * (self.log_probs - student)).sum(-1)
        if self.ids.size(-1) < logits.size(-1):
            rest, own = _rest(self.log_probs), _rest(student)
            terms = terms + rest.exp() * (rest - own)
        return terms.mean() * temperature**2

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as arrays; see `Features.__reduce__`."""
        return _from_arrays, (self.log_probs.numpy(force=True), self.ids.numpy(force=True))


def _rest(log_probs: Tensor) -> Tensor:
    """Logarithm of what some probabilities lack to one, [tokens]."""
    return torch.log1p(-log_probs.exp().sum(-1).clamp(max=1 - 1e-6))


def _from_arrays(log_probs: Any, ids: Any) -> SoftTargets:
    return SoftTargets(torch.from_numpy(log_probs), torch.from_numpy(ids))
