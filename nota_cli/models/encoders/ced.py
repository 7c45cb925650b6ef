"""CED audio encoder (Dinkel et al. 2023): a Transformer over 16x16 patches of a log-mel spectrogram."""

import dataclasses
import math
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from nota_cli.errors import CheckpointError, DataError, listing
from nota_cli.features.constants import BEATS_MEAN, BEATS_STD, INT16_SCALE
from nota_cli.models.encoders.base import EncoderEntry, non_default_fields
from nota_cli.models.encoders.vit import Attention, DropPath, FeedForward
from nota_cli.weights.files import read_json, read_safetensors, read_torch_file, refuse_non_finite
from nota_cli.weights.keys import key_problems, known_values
from nota_cli.weights.state_dicts import WRAPPERS, plain_names

Scaling = Literal["published", "beats"]
TokenOrder = Literal["time", "frequency"]

FRONT_END = {"published": "ced", "beats": "ced_beats_scaling"}  # by scaling; of nota_cli.features.batch.FRONT_ENDS
ORDERS = {"time": (0, 3, 2, 1), "frequency": (0, 2, 3, 1)}  # of [B, D, bands, steps], for one row of states
# In the published config.json, but of no consequence for the states: the classifier's, and what every Hugging Face
# configuration may carry.
IGNORED_FIELDS = frozenset(
    {"name", "outputdim", "eval_avg", "pad_last", "loss"}
    | {"architectures", "auto_map", "dtype", "torch_dtype", "model_type", "transformers_version", "_name_or_path"}
    | {"id2label", "label2id", "problem_type"}
)
# Also there, and what nota_cli.features.spectrograms.ced_spectrogram computes, whatever a file says.
SPECTROGRAM = {"f_min": 0, "f_max": 8000, "hop_size": 160, "n_fft": 512, "win_size": 512, "center": True}
LEFT_OUT = ("outputlayer.", "head.", "front_end.")  # the classifier; window and mel filters
TABLE = "time_pos_embed"
BEATS_LENGTH = 3001  # frames of 30 s, for which NLP-07 built their model
HEAD_WIDTH = 64  # in all published sizes
NORM_EPS = 1e-6
# Mean and standard deviation of the dB over AudioSet: BEATs' figures, which are natural logarithms of 16-bit energies.
MEAN_DB = 10.0 / math.log(10.0) * (BEATS_MEAN - 2.0 * math.log(INT16_SCALE))
STD_DB = 10.0 / math.log(10.0) * BEATS_STD


@dataclass(frozen=True)
class CedConfig:
    """Dimensions of a CED encoder, named as in the published `config.json`; the defaults are the published base model.

    Only what the published models are can be built: patches that do not overlap, no class token.
    """

    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    patch_size: int = 16
    patch_stride: int = 16
    n_mels: int = 64
    target_length: int = 1012
    pooling: str = "mean"
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0

    def __post_init__(self) -> None:
        problems = []
        if self.depth < 1:
            problems.append("depth must be 1 or more")
        if self.num_heads < 1 or self.embed_dim % self.num_heads:
            problems.append("embed_dim must be a multiple of num_heads")
        if self.patch_stride != self.patch_size:
            problems.append("patch_stride must be patch_size: patches do not overlap")
        if self.n_mels < self.patch_size or self.n_mels % self.patch_size:
            problems.append("n_mels must be a multiple of patch_size")
        if self.target_length < self.patch_size:
            problems.append("target_length must be patch_size or more")
        if self.pooling not in ("mean", "logit", "dm"):  # which only the classifier does
            problems.append(f"pooling is {self.pooling!r}, only models without a class token are known")
        if problems:
            raise CheckpointError(f"this CED model cannot be built:\n{listing(problems)}")

    @property
    def steps(self) -> int:
        """Places of the time position table: whole patches in `target_length` frames."""
        return self.target_length // self.patch_size

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CedConfig":
        """Take a published `config.json`, passing over `IGNORED_FIELDS`.

        Raises:
            CheckpointError: a key that is neither known nor knowingly ignored, another spectrogram than the published
                one, or a model that cannot be built.
        """
        known = known_values(cls, values, IGNORED_FIELDS | set(SPECTROGRAM), "CED config")
        other = [
            f"{key} is {values[key]}, not {value}"
            for key, value in SPECTROGRAM.items()
            if values.get(key, value) != value
        ]
        if other:
            raise CheckpointError(f"this CED model wants a spectrogram that is not computed here:\n{listing(other)}")
        return cls(**known)


class CedEncoder(nn.Module):
    """Log-mel spectrogram in, one state a patch out (n_mels / 16 states for each 160 ms).

    Weight names are those of the original checkpoints. `output_dim` is the width of the states, `front_end` the
    spectrogram that they want.

    Args:
        config: the dimensions.
        scaling: "published", or "beats" for team NLP-07's variant, of which two things differ: the dB are first
            normalized with BEATs' figures, and the time position table has places for 30 s at least (see `load_ced`).
        token_order: "time" puts the n_mels / 16 bands of one step side by side, so that neighbouring states are
            neighbours in time; "frequency", which is how the published code and NLP-07 have it, all steps of the lowest
            band before the next band's.
    """

    def __init__(self, config: CedConfig, *, scaling: Scaling = "published", token_order: TokenOrder = "time"):
        super().__init__()
        if scaling == "beats" and config.target_length < BEATS_LENGTH:
            config = dataclasses.replace(config, target_length=BEATS_LENGTH)
        self.config = config
        self.scaling = scaling
        self.token_order = token_order
        self.front_end = FRONT_END[scaling]
        self.output_dim = width = config.embed_dim
        bands = config.n_mels // config.patch_size
        self.time_pos_embed = nn.Parameter(torch.empty(1, width, 1, config.steps))
        self.freq_pos_embed = nn.Parameter(torch.empty(1, width, bands, 1))
        self.init_bn = nn.Sequential(OrderedDict({"1": _BinNorm(config.n_mels)}))
        patch = nn.Conv2d(1, width, kernel_size=config.patch_size, stride=config.patch_stride)
        self.patch_embed = nn.Sequential(OrderedDict(proj=patch))
        drop_paths = torch.linspace(0.0, config.drop_path_rate, config.depth, device="cpu")
        self.blocks = nn.ModuleList(_Block(config, drop_path) for drop_path in drop_paths.tolist())
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self._initialize()

    def forward(self, fbank: torch.Tensor, lengths: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode log-mel spectrograms (`nota_cli.features.spectrograms.ced_spectrogram`).

        A clip of more than `target_length` frames is cut into pieces of that many, each of which is encoded alone, as
        published; their states follow one another. Unlike there the last piece keeps its own length instead of being
        filled up.

        Args:
            fbank: `[B, T, n_mels]`, 100 frames a second.
            lengths: `[B]`, real frames of each row; None says that all T are. Frames behind the last whole patch of a
                row or a piece are dropped.

        Returns:
            states `[B, S, D]`, zero where padded, and mask `[B, S]`, True = real; S is the longest row's number of
            states. The real states of a row come first, and are the same alone as in a batch, also in training.

        Raises:
            DataError: a row without one whole patch, or another number of mel bins.
        """
        config = self.config
        batch, n_frames, n_mels = fbank.shape
        if n_mels != config.n_mels:
            raise DataError(f"this CED model wants {config.n_mels} mel bins, got {n_mels}.")
        shortest = n_frames if lengths is None else int(lengths.min())
        if shortest < config.patch_size:
            least = config.patch_size
            raise DataError(f"CED needs at least {least} frames ({least * 10} ms) of every clip, got {shortest}.")
        fbank = self.init_bn(fbank).to(self.freq_pos_embed.dtype)
        if torch.compiler.is_exporting():
            return self._one_piece(fbank)
        if lengths is None:
            lengths = torch.full((batch,), n_frames)
        pieces, row, steps = self._pieces(fbank, lengths.to(fbank.device))
        tokens = self.patch_embed(pieces.transpose(1, 2)[:, None])  # [pieces, D, bands, steps]
        n_bands, n_steps = tokens.shape[2:]
        tokens = tokens + self.time_pos_embed[..., :n_steps] + self.freq_pos_embed
        order = ORDERS[self.token_order]
        real = (torch.arange(n_steps, device=tokens.device) < steps[:, None, None, None]).expand(-1, -1, n_bands, -1)
        real = real.permute(order).flatten(1)
        states = F.dropout(tokens.permute(order).flatten(1, 2), p=config.drop_rate, training=self.training)
        attention_mask = None if bool(real.all()) else real[:, None, None]  # None lets attention take its fastest way
        for block in self.blocks:
            states = block(states, attention_mask)
        states = self.norm(states)

        counts = torch.zeros(batch, dtype=steps.dtype, device=steps.device).index_add_(0, row, steps) * n_bands
        mask = torch.arange(int(counts.max()), device=states.device) < counts[:, None]
        out = states.new_zeros(*mask.shape, self.output_dim)
        out[mask] = states[real]  # both run over rows, their pieces and the tokens of these in the same order
        return out, mask

    def _one_piece(self, fbank: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Clips of `target_length` frames at most and all of the same length, without a look at any value."""
        tokens = self.patch_embed(fbank.transpose(1, 2)[:, None])
        tokens = tokens + self.time_pos_embed[..., : tokens.shape[3]] + self.freq_pos_embed
        states = tokens.permute(ORDERS[self.token_order]).flatten(1, 2)
        for block in self.blocks:
            states = block(states, None)
        return self.norm(states), torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)

    def _pieces(self, fbank: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pieces of `target_length` frames at most, `[pieces, frames, n_mels]`, each one's row and whole steps."""
        batch, n_frames, n_mels = fbank.shape
        size = min(self.config.target_length, n_frames)
        per_row = math.ceil(n_frames / size)
        pieces = F.pad(fbank, (0, 0, 0, per_row * size - n_frames)).reshape(batch * per_row, size, n_mels)
        starts = torch.arange(per_row, device=lengths.device) * size
        steps = (lengths[:, None] - starts).clamp(0, size).flatten() // self.config.patch_size
        row = torch.arange(batch, device=lengths.device).repeat_interleave(per_row)
        filled = steps > 0
        return pieces[filled], row[filled], steps[filled]

    def _initialize(self) -> None:
        """As published; the norm of the mel bins starts from what is known of AudioSet."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.time_pos_embed, std=0.02)
        nn.init.trunc_normal_(self.freq_pos_embed, std=0.02)
        mean, std = (BEATS_MEAN, BEATS_STD) if self.scaling == "beats" else (0.0, 0.5)
        norm: Any = self.init_bn[0]
        norm.running_mean.fill_((MEAN_DB - mean) / (2.0 * std))
        norm.running_var.fill_((STD_DB / (2.0 * std)) ** 2)


class _BinNorm(nn.BatchNorm1d):
    """Batch norm of each mel bin, always by the statistics that it came with; `[B, T, bins]` in, float32 out.

    So a row never depends on its batch, in training neither, and a training run has no state but its parameters.
    """

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        assert self.running_mean is not None  # both are kept
        assert self.running_var is not None
        scale = self.weight * torch.rsqrt(self.running_var.float() + self.eps)
        return (frames.float() - self.running_mean) * scale + self.bias


class _Block(nn.Module):
    """Attention and feed-forward, each with a norm before it."""

    def __init__(self, config: CedConfig, drop_path: float):
        super().__init__()
        width = config.embed_dim
        self.drop_path = DropPath(drop_path)
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = Attention(
            width,
            config.num_heads,
            qkv_bias=config.qkv_bias,
            attention_dropout=config.attn_drop_rate,
            dropout=config.drop_rate,
        )
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = FeedForward(width, int(width * config.mlp_ratio), config.drop_rate)

    def forward(self, states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        states = states + self.drop_path(self.attn(self.norm1(states), attention_mask))
        return states + self.drop_path(self.mlp(self.norm2(states)))


def load_ced(
    path: str | Path,
    heads: int | None = None,
    *,
    scaling: Scaling = "published",
    token_order: TokenOrder = "time",
) -> CedEncoder:
    """Read a published CED model, in evaluation mode; its classifier and mel filters are left out.

    With `scaling="beats"` a time position table for less than 30 s is stretched bilinearly to the 187 places of 30 s,
    as NLP-07's code did on loading, and a clip of any length then takes the first of these. With
    `scaling="published"` the table stays as it is, and what is longer is encoded in pieces (`CedEncoder.forward`).

    Args:
        path: an original checkpoint (a bare state_dict, of which only tensors and plain values are unpickled), or a
            Hugging Face folder (`config.json` and `model.safetensors` or `pytorch_model.bin`).
        heads: attention heads, which an original checkpoint does not tell; by default one for 64 of its width, as in
            all published sizes.
        scaling, token_order: of `CedEncoder`.

    Raises:
        CheckpointError: a file is missing, damaged or of another kind, or its weights are not exactly its config's.
    """
    path = Path(path)
    config, weights = _read_folder(path, heads) if path.is_dir() else _read_file(path, heads)
    with torch.device("meta"):  # no memory and no time for an initialization that is replaced at once
        published = CedEncoder(config)
        encoder = CedEncoder(config, scaling=scaling, token_order=token_order)
    problems = key_problems(weights, published.state_dict(), "config" if path.is_dir() else "width and depth")
    if problems:
        raise CheckpointError(f"{path}: not the weights of a CED model:\n{listing(problems)}")
    refuse_non_finite(path, weights)
    if config.steps < encoder.config.steps:
        size = (1, encoder.config.steps)
        weights[TABLE] = F.interpolate(weights[TABLE].float(), size=size, mode="bilinear", align_corners=False)
    # The one integer, a counter, stays what it is.
    state = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    encoder.load_state_dict(state, assign=True)
    return encoder.eval()


def own_name(name: str) -> str:
    """A weight's name in `CedEncoder`, from its name in an original checkpoint or a Hugging Face model."""
    return re.sub(r"^init_bn\.(?!1\.)", "init_bn.1.", name.removeprefix("encoder."))


def _read_folder(folder: Path, heads: int | None) -> tuple[CedConfig, dict[str, torch.Tensor]]:
    config = CedConfig.from_dict(read_json(folder / "config.json"))
    if heads not in (None, config.num_heads):
        raise CheckpointError(f"{folder}: its config.json says {config.num_heads} heads, but {heads} are asked for.")
    file = folder / "model.safetensors"
    if not file.is_file() and (folder / "pytorch_model.bin").is_file():
        return config, _tensors(folder, read_torch_file(folder / "pytorch_model.bin"))
    return config, _tensors(folder, read_safetensors(file))


def _read_file(path: Path, heads: int | None) -> tuple[CedConfig, dict[str, torch.Tensor]]:
    weights = _tensors(path, read_safetensors(path) if path.suffix == ".safetensors" else read_torch_file(path))
    table, hidden, norm = (weights.get(n) for n in (TABLE, "blocks.0.mlp.fc1.weight", "init_bn.1.weight"))
    if table is None or table.ndim != 4 or hidden is None or norm is None:
        raise CheckpointError(f"{path}: not a CED checkpoint, which holds {TABLE}, blocks and init_bn.")
    width, steps = table.shape[1], table.shape[3]
    if heads is None and width % HEAD_WIDTH:
        raise CheckpointError(f"{path}: the width {width} does not tell the number of attention heads. Give `heads`.")
    published = CedConfig()
    blocks = {int(match[1]) for name in weights if (match := re.match(r"blocks\.(\d+)\.", name))}
    values = {
        "embed_dim": width,
        "depth": max(blocks) + 1,
        "num_heads": heads or width // HEAD_WIDTH,
        "mlp_ratio": len(hidden) / width,
        "n_mels": len(norm),
        "qkv_bias": "blocks.0.attn.qkv.bias" in weights,
        # The published length does not fill its last patch; a file tells whole patches alone.
        "target_length": published.target_length if steps == published.steps else steps * published.patch_size,
    }
    return CedConfig.from_dict(values), weights


def _tensors(path: Path, content: Any) -> dict[str, torch.Tensor]:
    """A file's weights by our names, without those that are left out."""
    if isinstance(content, dict):
        content = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), content)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a CED checkpoint, which is a dictionary of weights.")
    named = {str(name): value for name, value in content.items()}
    weights = plain_names(named, path, (), own_name)
    weights = {name: value for name, value in weights.items() if not name.startswith(LEFT_OUT)}
    others = [f"not a tensor: {name}" for name, value in weights.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise CheckpointError(f"{path}: not a CED checkpoint, which is a dictionary of weights:\n{listing(others)}")
    return weights


ENCODER = EncoderEntry(
    from_config=lambda values, spec: CedEncoder(
        CedConfig.from_dict(values), scaling=spec.scaling, token_order=spec.token_order
    ),
    load=lambda path, spec: load_ced(path, spec.heads, scaling=spec.scaling, token_order=spec.token_order),
    layers="blocks",
    layer_count="depth",
    config_values=lambda encoder: non_default_fields(encoder.config, list(CedConfig.__dataclass_fields__)),
)
