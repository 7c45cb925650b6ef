"""The Whisper encoder (Radford et al. 2022) for spectrograms of any length, with padding that changes nothing."""

from pathlib import Path

import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from transformers import WhisperConfig
from transformers.models.whisper import modeling_whisper

from nota_cli.errors import CheckpointError, DataError, RecipeError, listing
from nota_cli.models.encoders.base import ConfigValues, EncoderEntry, non_default_fields
from nota_cli.recipe.schema import SpeechEncoder
from nota_cli.weights.files import open_safetensors, read_json, refuse_non_finite, weight_files
from nota_cli.weights.keys import key_problems, refuse_unknown
from nota_cli.weights.state_dicts import without_wrapping_modules

ENCODER_PREFIXES = ("model.encoder.", "encoder.")  # with a language head, and without


class WhisperEncoder(modeling_whisper.WhisperEncoder):
    """transformers' encoder, weights and initialization included, with a forward of our own.

    Theirs takes exactly 2 x max_source_positions frames and knows no padding; this one takes up to that many and
    gives a clip the same states alone as in a batch.
    """

    def __init__(self, config: WhisperConfig):
        super().__init__(config)
        self.output_dim: int = config.d_model
        with torch.no_grad():  # transformers fills the table for its own classes alone
            self.embed_positions.weight.copy_(modeling_whisper.sinusoids(*self.embed_positions.weight.shape))

    def forward(self, log_mel: torch.Tensor, lengths: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode log-mel spectrograms.

        Args:
            log_mel: `[B, n_mels, T]`, T up to 2 x max_source_positions (100 frames a second).
            lengths: `[B]`, real frames of each row; None says that all T are.

        Returns:
            states `[B, S, D]` with S = ceil(T / 2), meaningless where padded, and mask `[B, S]`, True = real.

        Raises:
            DataError: more frames than the model has positions for, or another number of mel bins.
        """
        batch, n_mels, n_frames = log_mel.shape
        n_states = (n_frames + 1) // 2
        if n_mels != self.num_mel_bins:
            raise DataError(f"the Whisper encoder wants {self.num_mel_bins} mel bins, got {n_mels}.")
        if n_states > self.max_source_positions:
            raise DataError(
                f"the Whisper encoder takes at most {2 * self.max_source_positions} frames, got {n_frames}. "
                "Cut the clip before making its log-mel."
            )
        log_mel = log_mel.to(self.conv1.weight.dtype)
        mask = torch.ones(batch, n_states, dtype=torch.bool, device=log_mel.device)
        attention_mask = None  # none at all lets the attention take its fastest way
        if lengths is not None and bool((lengths < n_frames).any()):
            lengths = lengths.to(log_mel.device)[:, None]
            padded = (torch.arange(n_frames, device=log_mel.device) >= lengths)[:, None]
            mask = torch.arange(n_states, device=log_mel.device) < (lengths + 1) // 2
            attention_mask = mask[:, None, None]
            # Alone, a row's convolutions find zeros behind its end; here they must find the same.
            states = F.gelu(self.conv1(log_mel.masked_fill(padded, 0.0))).masked_fill(padded, 0.0)
        else:
            states = F.gelu(self.conv1(log_mel))
        states = F.gelu(self.conv2(states)).transpose(1, 2)
        states = states + self.embed_positions.weight[:n_states]
        states = F.dropout(states, p=self.dropout, training=self.training)
        for layer in self.layers:
            if self.training and self.layerdrop > 0.0 and torch.rand(()).item() < self.layerdrop:
                continue
            states = layer(states, attention_mask)
        return self.layer_norm(states), mask


def load_whisper_encoder(path: str | Path, dtype: torch.dtype = torch.float32) -> WhisperEncoder:
    """Read the encoder of a Hugging Face Whisper folder, in evaluation mode; its decoder is not read.

    Args:
        path: folder with `config.json` and `model.safetensors` (or its shards with their index).
        dtype: floating-point type of the weights in memory.

    Raises:
        CheckpointError: a file is missing or damaged, or the encoder's weights are not exactly the config's.
    """
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: no Whisper model here (config.json is missing). Name a Hugging Face folder.")
    read_json(folder / "config.json")  # whose errors say more than transformers'
    try:
        config = WhisperConfig.from_pretrained(folder, local_files_only=True)
    except StrictDataclassError as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}. Download it again.") from error
    weights: dict[str, torch.Tensor] = {}
    for file in weight_files(folder):
        weights.update(_encoder_weights(file, dtype))
    if not weights:
        raise CheckpointError(f"{folder}: holds no `{'` or `'.join(ENCODER_PREFIXES)}` weights. Is it a Whisper model?")

    with torch.device("meta"):  # no memory and no time for an initialization that is replaced at once
        encoder = WhisperEncoder(config)
    problems = key_problems(weights, encoder.state_dict(), "config")
    if problems:
        raise CheckpointError(f"{folder}: the encoder's weights do not fit its config.json:\n{listing(problems)}")
    encoder.load_state_dict(weights, assign=True)
    encoder.embed_positions.requires_grad_(False)
    return encoder.eval()


def _encoder_weights(file: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The encoder's tensors of one file by their names inside the encoder, read one by one: half the memory."""
    with open_safetensors(file) as tensors:
        names = {name: without_wrapping_modules(name) for name in tensors.keys()}  # noqa: SIM118  (it is no dict)
        weights = {bare: tensors.get_tensor(name) for name, bare in names.items() if bare.startswith(ENCODER_PREFIXES)}
    refuse_non_finite(file, weights)
    return {name.removeprefix("model.").removeprefix("encoder."): value.to(dtype) for name, value in weights.items()}


# What WhisperConfig holds for the encoder, the number of layers apart; much else is the decoder's and the training's.
CONFIG_FIELDS = [
    *("num_mel_bins", "d_model", "encoder_attention_heads", "encoder_ffn_dim", "max_source_positions", "init_std"),
    *("activation_function", "dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop"),
    "scale_embedding",
]


def _from_config(values: ConfigValues, spec: SpeechEncoder) -> WhisperEncoder:
    """With random weights; what a recipe writes itself is held against what there is.

    Raises:
        RecipeError: a value is unknown, or one that Whisper cannot have.
    """
    if spec.config is not None:
        refuse_unknown("speech_encoder.config", spec.config, WhisperConfig().to_dict())
    try:
        return WhisperEncoder(WhisperConfig(**values))
    except StrictDataclassError as error:
        raise RecipeError(f"speech_encoder.config: {error}") from error


ENCODER = EncoderEntry(
    from_config=_from_config,
    load=lambda path, spec: load_whisper_encoder(path, getattr(torch, spec.dtype)),
    layers="layers",
    layer_count="encoder_layers",
    config_values=lambda encoder: non_default_fields(encoder.config, CONFIG_FIELDS),
    fixed=("embed_positions",),  # a table of sines
)
