"""Recipe to `AudioLM`; what is trainable is decided here and nowhere else."""

from pathlib import Path

import torch
from torch import nn

from nota_cli.model.audio_lm import AudioLM
from nota_cli.model.beats import BeatsConfig, BeatsEncoder, load_beats
from nota_cli.model.checkpoint import load_checkpoint, own_decoder
from nota_cli.model.decoder import load_decoder, refuse_unknown
from nota_cli.model.whisper import WhisperEncoder, load_whisper_encoder
from nota_cli.recipe.schema import AudioEncoder, Recipe, SpeechEncoder


def build(recipe: Recipe, device: str = "cpu", *, trainable: bool = False) -> AudioLM:
    """The one builder that training, inference and measuring share.

    Parts with a `path` get their published weights, parts with a `config` random ones; then the recipe's checkpoint,
    if it has one, is loaded over them; its decoder takes the place of one with random weights.

    Args:
        recipe: the system.
        device: where to put it.
        trainable: leave gradients on for the parts that the recipe trains; otherwise the model is frozen, in eval mode.

    Raises:
        CheckpointError: weights are missing or do not fit.
    """
    if recipe.checkpoint is not None:
        decoder_spec = own_decoder(recipe.decoder, Path(recipe.checkpoint))
        recipe = recipe.model_copy(update={"decoder": decoder_spec})
    decoder = load_decoder(recipe.decoder, device, trainable=trainable)
    model = AudioLM(recipe, _speech_encoder(recipe.speech_encoder), _audio_encoder(recipe.audio_encoder), decoder)
    if recipe.lora is not None:
        decoder.add_lora(recipe.lora)
    if recipe.checkpoint is not None:
        load_checkpoint(model, Path(recipe.checkpoint))
    model.to(device)
    model.eval().requires_grad_(False)
    if trainable:
        _set_trainable(model)
    return model


def _set_trainable(model: AudioLM) -> None:
    """Turn gradients on for what the recipe trains, off for the rest."""
    recipe = model.recipe
    switches = [
        (model.speech_encoder, recipe.speech_encoder.train),
        (model.audio_encoder, recipe.audio_encoder.train),
        (model.connector, recipe.connector.train),
        (model.decoder, recipe.decoder.train),
    ]
    for part, on in switches:
        if part is not None:
            part.requires_grad_(on)
    # Whisper's positions are a fixed table of sines.
    model.speech_encoder.embed_positions.requires_grad_(False)
    for name, parameter in model.decoder.named_parameters():
        if "lora_" in name:
            parameter.requires_grad_(True)


def train_mode(model: AudioLM) -> None:
    """Dropout on in the parts that are trained, off in the frozen ones."""
    model.eval()
    for part in (model.speech_encoder, model.audio_encoder, model.connector, model.decoder):
        if part is not None and any(parameter.requires_grad for parameter in part.parameters()):
            part.train()


def _speech_encoder(spec: SpeechEncoder) -> nn.Module:
    dtype = getattr(torch, spec.dtype)
    if spec.path is not None:
        return load_whisper_encoder(spec.path, dtype)
    from transformers import WhisperConfig

    values = spec.config or {}
    refuse_unknown("speech_encoder.config", values, WhisperConfig().to_dict())
    return WhisperEncoder(WhisperConfig(**values)).to(dtype)


def _audio_encoder(spec: AudioEncoder) -> nn.Module | None:
    if spec.kind == "none":
        return None
    encoder = load_beats(spec.path) if spec.path is not None else BeatsEncoder(BeatsConfig.from_dict(spec.config or {}))
    return encoder.to(getattr(torch, spec.dtype))
