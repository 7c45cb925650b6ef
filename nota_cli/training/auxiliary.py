"""Helper losses beside the decoder's own; their heads are thrown away after training.

A decoder that must discover by itself which states carry a word needs thousands of steps before it starts to listen.
A CTC loss (Graves et al., 2006) on the speech encoder and a classification loss on the audio encoder show it at once
where these start from random weights; a CTC loss on the connector's output does so where they are frozen.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nota_cli.data.annotation import family
from nota_cli.data.row_batches import Batch
from nota_cli.models.families.salmonn import Encoded, Salmonn
from nota_cli.recipe.training import Train

CONFIDENT = 12.0  # the alignment's score of an output that is exactly a token's embedding
CTC_POOL = 4  # states averaged for one CTC frame: with 80 ms instead of 20 ms there are far fewer blanks to get lost in


class AuxiliaryHeads(nn.Module):
    """One linear layer for each helper loss that the recipe weighs above zero.

    Args:
        model: the model whose states are read.
        spec: the weights of the losses.
        labels: every label of the training rows.
    """

    def __init__(self, model: Salmonn, spec: Train, labels: list[str]) -> None:
        super().__init__()
        self.spec = spec
        self.token_ids = model.decoder.token_ids
        self.blank = len(model.decoder.tokenizer)
        self.label_index = {label: index for index, label in enumerate(labels)}
        speech: Any = model.speech_encoder
        sounds: Any = model.audio_encoder
        self.ctc = nn.Linear(speech.output_dim, self.blank + 1) if spec.ctc_weight else None
        wanted = spec.label_weight > 0 and sounds is not None
        self.alignment = AlignmentHead(model) if spec.alignment_weight else None
        self.label = nn.Linear(sounds.output_dim, len(labels)) if wanted else None

    def forward(self, encoded: Encoded, batch: Batch) -> dict[str, Tensor]:
        """The weighted losses by name, those without a fitting row in the batch left out."""
        losses = {}
        spoken = [i for i, query in enumerate(batch.queries) if family(query.task) == "asr"]
        if self.ctc is not None and spoken:
            losses["ctc"] = self.spec.ctc_weight * self._ctc_loss(encoded, batch, spoken)
        aligned = self._aligned(batch)
        if self.alignment is not None and aligned:
            targets = [self.token_ids(batch.texts[i]) for i in aligned]
            losses["alignment"] = self.spec.alignment_weight * self.alignment(encoded, aligned, targets)
        labeled = [i for i, label in enumerate(batch.labels) if label in self.label_index]
        if self.label is not None and labeled:
            losses["label"] = self.spec.label_weight * self._label_loss(encoded, batch, labeled)
        return losses

    def counts(self, batch: Batch) -> dict[str, int]:
        """Of how many rows each loss of a batch is the mean; 0 of a loss that the batch has not."""
        spoken = sum(family(query.task) == "asr" for query in batch.queries)
        labeled = sum(label in self.label_index for label in batch.labels)
        modules = {
            "ctc": (self.ctc, spoken),
            "alignment": (self.alignment, len(self._aligned(batch))),
            "label": (self.label, labeled),
        }
        return {name: rows for name, (module, rows) in modules.items() if module is not None}

    def _aligned(self, batch: Batch) -> list[int]:
        """Indices of a batch's rows whose texts the connector is taught to spell."""
        return [i for i, query in enumerate(batch.queries) if family(query.task) in self.spec.alignment_tasks]

    def _ctc_loss(self, encoded: Encoded, batch: Batch, rows: list[int]) -> Tensor:
        states = encoded.speech_states[rows]
        states = states[:, : states.size(1) // CTC_POOL * CTC_POOL].unflatten(1, (-1, CTC_POOL)).mean(2)
        assert self.ctc is not None
        scores = self.ctc(states).float().log_softmax(-1)
        lengths = encoded.speech_mask[rows].sum(-1) // CTC_POOL
        return _ctc(scores, lengths, [self.token_ids(batch.texts[i]) for i in rows], self.blank)

    def _label_loss(self, encoded: Encoded, batch: Batch, rows: list[int]) -> Tensor:
        assert self.label is not None  # there is one only beside an audio encoder
        assert encoded.audio_mask is not None
        assert encoded.audio_states is not None
        mask = encoded.audio_mask[rows].unsqueeze(-1)
        mean = (encoded.audio_states[rows] * mask).sum(1) / mask.sum(1)
        targets = torch.tensor([self.label_index[batch.labels[i] or ""] for i in rows], device=mean.device)
        return F.cross_entropy(self.label(mean).float(), targets, label_smoothing=0.1)


class AlignmentHead(nn.Module):
    """CTC of the connector's outputs over the decoder's own vocabulary, blank added.

    The score of a token is the output's product with that token's embedding, so an output that spells a token well
    also looks like it to the decoder. The embeddings are the decoder's and stay as they are; blank is learned.

    Args:
        model: the model whose connector is taught.
    """

    def __init__(self, model: Salmonn) -> None:
        super().__init__()
        ids = torch.arange(len(model.decoder.tokenizer), device=model.device)
        # What the connector has to say for the decoder to see exactly a token's embedding.
        table = (model.decoder.embed(ids) / model.decoder.audio_scale).detach()
        self.summary = model.recipe.connector.summary  # embeddings before those of the windows
        self._table = [table]  # in a list, so that it is no weight of this module
        power = float(table.float().square().sum(-1).mean())
        self.scale = CONFIDENT / power
        self.blank = nn.Parameter(torch.randn(table.size(1), device=table.device) * (power / table.size(1)) ** 0.5)

    def forward(self, encoded: Encoded, rows: list[int], targets: list[list[int]]) -> Tensor:
        """The loss of some rows of a batch, per target token.

        Args:
            encoded: the batch.
            rows: which of its clips to teach.
            targets: token ids of the text of each of them.
        """
        outputs, mask = encoded.embeds[rows, self.summary :], encoded.mask[rows, self.summary :]
        outputs = self.scale * outputs
        # Blank is multiplied apart: in one table with it, the gradient of all the embeddings would be computed for it.
        parts = [F.linear(outputs, weight.to(outputs.dtype)) for weight in (self._table[0], self.blank[None])]
        return _ctc(torch.cat(parts, -1).float().log_softmax(-1), mask.sum(-1), targets, self._table[0].size(0))


def _ctc(scores: Tensor, lengths: Tensor, targets: list[list[int]], blank: int) -> Tensor:
    """CTC loss of log probabilities [rows, frames, tokens + blank]; a text too long for its clip counts as zero."""
    return F.ctc_loss(
        scores.transpose(0, 1),
        torch.tensor([token for target in targets for token in target], device=scores.device),
        lengths,
        torch.tensor([len(target) for target in targets], device=scores.device),
        blank=blank,
        zero_infinity=True,
    )
