"""EAT audio encoder (Chen et al. 2024): a Transformer over 16x16 patches of a Kaldi filter bank and a class token."""

import dataclasses
import functools
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from nota_cli.errors import CheckpointError, DataError, listing
from nota_cli.models.encoders.base import EncoderEntry, non_default_fields
from nota_cli.models.encoders.vit import Attention, DropPath, FeedForward
from nota_cli.weights.files import read_json, read_safetensors, read_torch_file, refuse_non_finite
from nota_cli.weights.keys import key_problems, known_values
from nota_cli.weights.state_dicts import plain_names

# In the published config.json, but of no consequence for the states: the classifier's, the length that training used,
# the size of the position table (which is a formula), and what every Hugging Face configuration may carry.
IGNORED_FIELDS = frozenset(
    {"num_classes", "model_variant", "img_size", "max_length"}
    | {"architectures", "auto_map", "dtype", "torch_dtype", "model_type", "transformers_version", "_name_or_path"}
    | {"id2label", "label2id", "problem_type"}
)
# What only pre-training and classification use, by its name after `own_name`: the teacher, the decoders, the heads.
LEFT_OUT = ("_ema", "decoder.", "shared_decoder.", "recon_proj.", "cls_proj.", "center", "fc_norm.", "head.")
POSITIONS = "fixed_positional_encoder.positions"
POSITION_TOLERANCE = 5e-3  # a table kept in bfloat16 is up to 0.004 off
# EatConfig's names for what the fairseq layout's `cfg` calls otherwise.
FAIRSEQ_NAMES = {
    "drop_rate": "encoder_dropout",
    "attn_drop_rate": "attention_dropout",
}
MOST_STEPS = 188  # of a clip of 30 s


@dataclass(frozen=True)
class EatConfig:
    """Dimensions of an EAT encoder, named as in the published `config.json`; the defaults are the published base model.

    Only what the published models are can be built: one class token, fixed positions, norms behind the residuals.
    """

    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    patch_size: int = 16
    stride: int = 16
    in_chans: int = 1
    mel_bins: int = 128
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    activation_dropout: float = 0.0
    post_mlp_drop: float = 0.0
    start_drop_path_rate: float = 0.0
    end_drop_path_rate: float = 0.0
    layer_norm_first: bool = False
    norm_eps: float = 1e-6
    norm_affine: bool = True
    fixed_positions: bool = True

    def __post_init__(self) -> None:
        problems = []
        if self.depth < 1:
            problems.append("depth must be 1 or more")
        if self.embed_dim % self.num_heads:
            problems.append("embed_dim must be a multiple of num_heads")
        if self.embed_dim % 4:
            problems.append("embed_dim must be a multiple of 4, for the sines and cosines of both axes")
        if self.mel_bins < self.patch_size or self.mel_bins % self.patch_size:
            problems.append("mel_bins must be a multiple of patch_size")
        if self.stride != self.patch_size:
            problems.append("stride must be patch_size: patches do not overlap")
        if self.in_chans != 1:
            problems.append("in_chans must be 1")
        if self.layer_norm_first:
            problems.append("layer_norm_first must be false")
        if not (self.qkv_bias and self.norm_affine and self.fixed_positions):
            problems.append("qkv_bias, norm_affine and fixed_positions must be true")
        if problems:
            raise CheckpointError(f"this EAT model cannot be built:\n{listing(problems)}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "EatConfig":
        """Take a published `config.json`, passing over `IGNORED_FIELDS`.

        Raises:
            CheckpointError: a key that is neither known nor knowingly ignored, or a model that cannot be built.
        """
        return cls(**known_values(cls, values, IGNORED_FIELDS, "EAT config"))


class EatEncoder(nn.Module):
    """Filter bank in, one state a patch out, time-major (mel_bins / 16 states for each 160 ms).

    The class token takes part in the attention, as published, but is not among the states. Weight names are those of
    the published Hugging Face models without their `model.`; the position table is computed. `output_dim` is the width
    of the states.
    """

    front_end = "eat"  # of nota_cli.features.batch.FRONT_ENDS

    def __init__(self, config: EatConfig):
        super().__init__()
        self.config = config
        self.output_dim = config.embed_dim
        patch = nn.Conv2d(1, config.embed_dim, kernel_size=config.patch_size, stride=config.stride)
        self.local_encoder = nn.Sequential(OrderedDict(proj=patch))
        self.extra_tokens = nn.Parameter(torch.empty(1, 1, config.embed_dim))
        self.pre_norm = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        drop_paths = torch.linspace(config.start_drop_path_rate, config.end_drop_path_rate, config.depth, device="cpu")
        self.blocks = nn.ModuleList(_Block(config, drop_path) for drop_path in drop_paths.tolist())
        self._initialize()

    def forward(self, fbank: torch.Tensor, lengths: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode normalized filter banks (`nota_cli.features.spectrograms.eat_fbank`).

        Published code fills clips up to 1,024 frames (10.24 s), which then attend to the filling, or cuts them there;
        here a clip keeps its own length, as the published feature extraction allows. Its positions are a formula and
        have no end, but what lies behind 10.24 s was never seen in the published training.

        Args:
            fbank: `[B, T, mel_bins]`, 100 frames a second.
            lengths: `[B]`, real frames of each row; None says that all T are. Frames behind a row's last whole
                patch are dropped (`eat_fbank` leaves none).

        Returns:
            states `[B, S, D]` with S = (T // 16) x (mel_bins // 16), meaningless where padded, and mask `[B, S]`,
            True = real. A row's states are the same alone as in a batch.

        Raises:
            DataError: a row without one whole patch, or another number of mel bins.
        """
        patch = self.config.patch_size
        batch, n_frames, n_mels = fbank.shape
        if n_mels != self.config.mel_bins:
            raise DataError(f"this EAT model wants {self.config.mel_bins} mel bins, got {n_mels}.")
        shortest = n_frames if lengths is None else int(lengths.min())
        if shortest < patch:
            raise DataError(f"EAT needs at least {patch} frames ({patch * 10} ms) of every clip, got {shortest}.")

        n_steps, n_columns = n_frames // patch, n_mels // patch
        fbank = fbank.to(self.extra_tokens.dtype)
        tokens = self.local_encoder(fbank[:, None]).flatten(2).transpose(1, 2)  # steps outer, mel patches inner
        if torch.compiler.is_exporting():  # n_steps is a symbol there: the beginning of a constant
            positions = _positions(MOST_STEPS, n_columns, self.output_dim, tokens.device)[: n_steps * n_columns]
        else:
            positions = _positions(n_steps, n_columns, self.output_dim, tokens.device)
        tokens = tokens + positions.to(self.extra_tokens.dtype)
        states = self.pre_norm(torch.cat([self.extra_tokens.expand(batch, -1, -1), tokens], dim=1))
        states = F.dropout(states, p=self.config.drop_rate, training=self.training)

        mask = torch.ones(batch, n_steps * n_columns, dtype=torch.bool, device=states.device)
        attention_mask = None  # none at all lets the attention take its fastest way
        if lengths is not None and shortest // patch < n_steps:
            real = lengths.to(states.device) // patch * n_columns
            mask = torch.arange(n_steps * n_columns, device=states.device) < real[:, None]
            attention_mask = F.pad(mask, (1, 0), value=True)[:, None, None]  # the class token is always real
        for block in self.blocks:
            states = block(states, attention_mask)
        return states[:, 1:], mask

    def _initialize(self) -> None:
        """As published: BERT's normals, a patch embedding like a linear layer's, a class token of unit variance."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        patches: Any = self.local_encoder.proj
        nn.init.xavier_uniform_(patches.weight.data.flatten(1))
        nn.init.normal_(self.extra_tokens)


class _Block(nn.Module):
    """Attention and feed-forward, each normed after its residual."""

    def __init__(self, config: EatConfig, drop_path: float):
        super().__init__()
        width = config.embed_dim
        self.dropout = config.post_mlp_drop
        self.drop_path = DropPath(drop_path)
        self.attn = Attention(
            width,
            config.num_heads,
            qkv_bias=config.qkv_bias,
            attention_dropout=config.attn_drop_rate,
            dropout=config.drop_rate,
        )
        self.norm1 = nn.LayerNorm(width, eps=config.norm_eps)
        self.mlp = FeedForward(width, int(width * config.mlp_ratio), config.activation_dropout)
        self.norm2 = nn.LayerNorm(width, eps=config.norm_eps)

    def forward(self, states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        states = self.norm1(states + self.drop_path(self.attn(states, attention_mask)))
        hidden = F.dropout(self.mlp(states), p=self.dropout, training=self.training)
        return self.norm2(states + self.drop_path(hidden))


@functools.lru_cache(maxsize=16)
def _positions(n_steps: int, n_columns: int, width: int, device: torch.device) -> torch.Tensor:
    """`[n_steps x n_columns, width]`: half of the width tells the mel patch, half the step (He et al. 2021, MAE)."""
    rates = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64, device="cpu") / (width // 4))
    angles = torch.arange(max(n_steps, n_columns), device="cpu")[:, None] * rates
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1).float()
    columns = waves[:n_columns].expand(n_steps, -1, -1)
    steps = waves[:n_steps, None].expand(-1, n_columns, -1)
    return torch.cat([columns, steps], dim=-1).flatten(0, 1).to(device)


def load_eat(path: str | Path) -> EatEncoder:
    """Read a published EAT model, in evaluation mode; its classifier, decoder and teacher are left out.

    Args:
        path: a Hugging Face folder (`config.json` and `model.safetensors`), or a `.pt` file of the fairseq layout
            (`{"cfg", "model"}`), pre-trained or fine-tuned, of which only tensors and plain values are unpickled.

    Raises:
        CheckpointError: a file is missing, damaged or of another kind, or its weights are not exactly its config's.
    """
    path = Path(path)
    config, stored = _read_folder(path) if path.is_dir() else _read_fairseq(path)
    with torch.device("meta"):  # no memory and no time for an initialization that is replaced at once
        encoder = EatEncoder(config)
    named = plain_names(stored, path, encoder.state_dict(), own_name)
    weights = {name: value for name, value in named.items() if not name.startswith(LEFT_OUT)}
    problems = [f"not a tensor: {name}" for name, value in weights.items() if not isinstance(value, torch.Tensor)]
    if not problems:
        problems += _position_problems(weights.pop(POSITIONS, None), config)
        problems += key_problems(weights, encoder.state_dict(), "config")
    if problems:
        raise CheckpointError(f"{path}: the weights do not fit the config:\n{listing(problems)}")
    refuse_non_finite(path, weights)
    encoder.load_state_dict({name: value.float() for name, value in weights.items()}, assign=True)
    return encoder.eval()


def own_name(name: str) -> str:
    """A weight's name in `EatEncoder`, from its name in either published layout."""
    name = name.removeprefix("model.").removeprefix("modality_encoders.IMAGE.")
    return name.replace("context_encoder.norm.", "pre_norm.")


def _read_folder(folder: Path) -> tuple[EatConfig, dict[str, Any]]:
    return EatConfig.from_dict(read_json(folder / "config.json")), read_safetensors(folder / "model.safetensors")


def _read_fairseq(path: Path) -> tuple[EatConfig, dict[str, Any]]:
    try:
        checkpoint = read_torch_file(path)
    except CheckpointError as error:
        if not path.is_file():
            raise
        raise CheckpointError(
            f"{error} If the file is whole, it holds objects of its training code beside the weights: take the Hugging "
            "Face folder of the same model (config.json, model.safetensors) instead, or save `cfg` and `model` alone "
            "again as plain dictionaries."
        ) from error
    if not (isinstance(checkpoint, dict) and all(isinstance(checkpoint.get(key), dict) for key in ("cfg", "model"))):
        raise CheckpointError(f"{path}: not an EAT checkpoint, which holds `cfg` and `model`.")
    try:
        return _fairseq_config(checkpoint["cfg"]["model"]), checkpoint["model"]
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: its `cfg` is not an EAT model's ({error!r}).") from error


def _fairseq_config(model: Mapping[str, Any]) -> EatConfig:
    """The dimensions in a fairseq `cfg`; most of its keys steer pre-training and say nothing about the states."""
    if model.get("pretrained_model_args"):  # fine-tuned: this is the model inside the classifier
        model = model["pretrained_model_args"]["model"]
    image = model["modalities"]["image"]
    published = {"num_extra_tokens": 1, "prenet_depth": 0, "use_alibi_encoder": False}
    problems = [f"{key} is {image[key]}, not {value}" for key, value in published.items() if image[key] != value]
    if problems:
        raise CheckpointError(f"this EAT model cannot be built:\n{listing(problems)}")
    values = {}
    for field in dataclasses.fields(EatConfig):
        name = FAIRSEQ_NAMES.get(field.name, field.name)
        source = image if name in ("patch_size", "in_chans", "fixed_positions") else model
        if name in source:
            values[field.name] = source[name]
    return EatConfig(**values | {"stride": values["patch_size"]})


def _position_problems(table: torch.Tensor | None, config: EatConfig) -> list[str]:
    """Whether a file's table, `[1, steps x columns, width]` for any number of steps, is the one computed here."""
    if table is None:
        return []
    columns = config.mel_bins // config.patch_size
    if table.dim() != 3 or table.shape[0] != 1 or table.shape[1] % columns or table.shape[2] != config.embed_dim:
        return [f"shape: {POSITIONS} is {list(table.shape)}, not [1, a multiple of {columns}, {config.embed_dim}]"]
    expected = _positions(table.shape[1] // columns, columns, config.embed_dim, torch.device("cpu"))
    if (table[0].float() - expected).abs().max() > POSITION_TOLERANCE:
        return [f"differs from the fixed sines and cosines: {POSITIONS}"]
    return []


ENCODER = EncoderEntry(
    from_config=lambda values, spec: EatEncoder(EatConfig.from_dict(values)),
    load=lambda path, spec: load_eat(path),
    layers="blocks",
    layer_count="depth",
    config_values=lambda encoder: non_default_fields(encoder.config, list(EatConfig.__dataclass_fields__)),
)
