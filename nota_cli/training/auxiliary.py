"""Helper losses for encoders that start from random weights; their heads are thrown away after training.

A decoder that must discover by itself which states carry a word needs thousands of steps before it starts to listen;
a CTC loss on the speech encoder (Graves et al., 2006) and a classification loss on the audio encoder show it at once.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nota_cli.data.annotation import family
from nota_cli.data.batches import Batch
from nota_cli.models.families.salmonn import AudioLM, Encoded
from nota_cli.recipe.schema import Train

CTC_POOL = 4  # states averaged for one CTC frame: with 80 ms instead of 20 ms there are far fewer blanks to get lost in


class AuxiliaryHeads(nn.Module):
    """One linear layer for each helper loss that the recipe weighs above zero.

    Args:
        model: the model whose states are read.
        spec: the weights of the losses.
        labels: every label of the training rows.
    """

    def __init__(self, model: AudioLM, spec: Train, labels: list[str]) -> None:
        super().__init__()
        self.spec = spec
        self.token_ids = model.decoder.token_ids
        self.blank = len(model.decoder.tokenizer)
        self.label_index = {label: index for index, label in enumerate(labels)}
        self.ctc = nn.Linear(model.speech_encoder.output_dim, self.blank + 1) if spec.ctc_weight else None
        wanted = spec.label_weight > 0 and model.audio_encoder is not None
        self.label = nn.Linear(model.audio_encoder.output_dim, len(labels)) if wanted else None

    def forward(self, encoded: Encoded, batch: Batch) -> dict[str, Tensor]:
        """The weighted losses by name, those without a fitting row in the batch left out."""
        losses = {}
        spoken = [i for i, query in enumerate(batch.queries) if family(query.task) == "asr"]
        if self.ctc is not None and spoken:
            losses["ctc"] = self.spec.ctc_weight * self._ctc_loss(encoded, batch, spoken)
        labelled = [i for i, label in enumerate(batch.labels) if label in self.label_index]
        if self.label is not None and labelled:
            losses["label"] = self.spec.label_weight * self._label_loss(encoded, batch, labelled)
        return losses

    def _ctc_loss(self, encoded: Encoded, batch: Batch, rows: list[int]) -> Tensor:
        states = encoded.speech_states[rows]
        states = states[:, : states.size(1) // CTC_POOL * CTC_POOL].unflatten(1, (-1, CTC_POOL)).mean(2)
        scores = self.ctc(states).float().log_softmax(-1)
        targets = [torch.tensor(self.token_ids(batch.texts[i])) for i in rows]
        lengths = encoded.speech_mask[rows].sum(-1) // CTC_POOL
        return F.ctc_loss(
            scores.transpose(0, 1),
            torch.cat(targets).to(scores.device),
            lengths,
            torch.tensor([len(target) for target in targets], device=scores.device),
            blank=self.blank,
            zero_infinity=True,
        )

    def _label_loss(self, encoded: Encoded, batch: Batch, rows: list[int]) -> Tensor:
        mask = encoded.audio_mask[rows].unsqueeze(-1)
        mean = (encoded.audio_states[rows] * mask).sum(1) / mask.sum(1)
        targets = torch.tensor([self.label_index[batch.labels[i]] for i in rows], device=mean.device)
        return F.cross_entropy(self.label(mean).float(), targets, label_smoothing=0.1)
