"""Two clips, what is asked of them, and what a model makes of both."""

import numpy as np
import torch
from torch import Tensor

from nota_cli.features.batch import Features, extract
from nota_cli.models.families.salmonn import Salmonn
from nota_cli.prompts import Query


def listen(model: Salmonn) -> tuple[Features, list[Query]]:
    """Two clips of unequal length and what is asked of them."""
    rng = np.random.default_rng(3)
    waves = [rng.standard_normal(size).astype(np.float32) * 0.1 for size in (16000, 25000)]
    spec = model.preprocessor()
    features = extract(waves, spec.mel_bins, front_end=spec.front_end, pad=spec.pad)
    return features, [Query("asr", None), Query("audiocaption_v2", None)]


@torch.no_grad()
def logits(model: Salmonn) -> Tensor:
    """Logits at the real positions of the prompts `[positions, vocabulary]`."""
    embeds, mask = model.prompt_embeds(*listen(model))
    return model.decoder.model(inputs_embeds=embeds, attention_mask=mask, use_cache=False).logits[mask.bool()].float()
