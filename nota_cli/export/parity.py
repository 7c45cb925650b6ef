"""The parity gate: the same clips through the torch model and its export, part by part."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nota_cli.features.batch import Features
from nota_cli.models.families.exported import ExportedSalmonn
from nota_cli.models.families.salmonn import Salmonn
from nota_cli.prompts import Query

Array = np.ndarray[Any, Any]

ROUNDED = {32: 1e-3, 16: 2e-2, 8: 0.1, 5: 0.3, 4: 0.5}
"""Largest relative error of a part, by the bits of its weights."""
ROUNDED_DECODER = ROUNDED | {8: 0.15}  # products in 8 bits round activations, too: Gemma 3 270M is up to 0.12 off
BATCHES = (1, 6)


@dataclass
class Parity:
    """How far an export is from its source.

    Attributes:
        clips: that were compared.
        errors: by part the largest relative error, |export - torch| / |torch| in the Euclidean norm of a clip: states
            of each encoder, the connector's embeddings, the decoder's logits over the same embeddings.
        bounds: what each may be at most.
        same_texts: texts that are equal, by the size of the batches.
        different: texts that are not, torch's first.
    """

    clips: int = 0
    errors: dict[str, float] = field(default_factory=dict)
    bounds: dict[str, float] = field(default_factory=dict)
    same_texts: dict[str, int] = field(default_factory=dict)
    different: list[tuple[str, str]] = field(default_factory=list)

    @property
    def failed(self) -> list[str]:
        """Parts above their bounds, in the order in which a clip goes through them."""
        return [part for part, error in self.errors.items() if not error <= self.bounds[part]]

    def values(self) -> dict[str, Any]:
        """For the manifest, rounded so that the last digits of another machine change nothing."""
        return {
            "clips": self.clips,
            "relative_errors": {part: float(f"{error:.1g}") for part, error in self.errors.items()},
            "bounds": self.bounds,
            "same_texts": self.same_texts,
        }


def compare(
    model: Salmonn,
    export: ExportedSalmonn,
    waves: Sequence[Array],
    queries: Sequence[Query],
    bits: dict[str, int],
    tokens: int | None = None,
) -> Parity:
    """Run clips through both.

    Args:
        model: of `nota_cli.export.onnx.source_model`.
        export: the same model as it was written.
        waves: float32 `[samples]` at 16 kHz.
        queries: one a clip.
        bits: of the weights: `encoder`, `decoder`, `embedding`.
        tokens: of an answer at most, if fewer than the recipe's.
    """
    parity = Parity(clips=len(waves))
    names = ["speech_encoder", *(["audio_encoder"] if model.audio_encoder is not None else []), "connector", "decoder"]
    parity.bounds = dict.fromkeys(names, ROUNDED[bits["encoder"]])
    parity.bounds["connector"] = ROUNDED[connector_bits(bits["encoder"])]
    parity.bounds["decoder"] = ROUNDED_DECODER[min(bits["decoder"], bits["embedding"])]
    parity.errors = dict.fromkeys(names, 0.0)
    for wave, query in zip(waves, queries, strict=True):
        for part, error in _errors(model, export, wave, query).items():
            parity.errors[part] = max(parity.errors[part], error)
    for size in BATCHES:
        texts = [_texts(side, waves, queries, size, tokens) for side in (model, export)]
        pairs = list(zip(*texts, strict=True))
        parity.same_texts[str(size)] = sum(ours == theirs for theirs, ours in pairs)
        parity.different += [pair for pair in pairs if pair[0] != pair[1] and pair not in parity.different]
    return parity


def connector_bits(encoder: int) -> int:
    """Bits of the connector's weights by the encoders': no fewer than 8.

    A window's few embeddings are all that the decoder hears of it.
    """
    return max(encoder, 8)


@torch.inference_mode()
def _errors(model: Salmonn, export: ExportedSalmonn, wave: Array, query: Query) -> dict[str, float]:
    """Relative errors of one clip; each part gets what torch gave to it."""
    theirs: Features = model.preprocessor().features([wave])
    ours = export.preprocessor().features([wave])
    encoded = model.encode(theirs)
    length = (int(ours.log_mel_lengths[0]) + 1) // 2
    speech = encoded.speech_states[:, :length].numpy()
    mel = np.ascontiguousarray(ours.log_mel[:, :, : ours.log_mel_lengths[0]])
    errors = {"speech_encoder": _relative(export.graphs.states("speech_encoder", mel), speech)}
    audio = None
    if encoded.audio_states is not None:
        audio = encoded.audio_states.numpy()
        audio_states = export.audio_states(ours, 0)
        errors["audio_encoder"] = float("inf") if audio_states is None else _relative(audio_states, audio)
    embeds = (encoded.embeds * model.decoder.audio_scale)[0][encoded.mask[0]].numpy()
    clip = model.recipe.audio.pad == "clip"
    errors["connector"] = _relative(export.graphs.connect(speech, audio, clip=clip), embeds)
    prompt, mask = model.prompt_embeds(encoded, [query])
    logits: Tensor = model.decoder.model(inputs_embeds=prompt, attention_mask=mask, logits_to_keep=1).logits[:, -1]
    decoded = export.new_decoder(1, 1).prefill(export.prompt_embeds([embeds], [query])[0], mask.numpy())
    errors["decoder"] = _relative(decoded, logits.numpy())
    return errors


def _texts(model: Any, waves: Sequence[Array], queries: Sequence[Query], size: int, tokens: int | None) -> list[str]:
    settings = model.recipe.generate
    if tokens is not None:
        settings = settings.model_copy(update={"max_new_tokens": tokens})
    texts = []
    for start in range(0, len(waves), size):
        features = model.preprocessor().features(list(waves[start : start + size]))
        answers = model.generate_answers(features, list(queries[start : start + size]), settings)
        texts += [answer.text for answer in answers]
    return texts


def _relative(ours: Array, theirs: Array) -> float:
    """|ours - theirs| / |theirs|; infinite where the shapes differ."""
    if ours.shape != theirs.shape:
        return float("inf")
    return float(np.linalg.norm(ours - theirs) / max(float(np.linalg.norm(theirs)), 1e-12))
