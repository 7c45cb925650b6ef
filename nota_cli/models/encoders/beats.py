"""BEATs audio encoder (Chen et al. 2022): a Transformer over 16x16 patches of a Kaldi filter bank."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from nota_cli.errors import CheckpointError, DataError, listing
from nota_cli.models.encoders.base import EncoderEntry, non_default_fields
from nota_cli.weights.attention import gated_attention
from nota_cli.weights.files import read_torch_file, refuse_non_finite
from nota_cli.weights.keys import key_problems, known_values
from nota_cli.weights.state_dicts import plain_names

# In the published cfg, but of no consequence for the states: they steer fine-tuning or belong to the classifier.
IGNORED_FIELDS = frozenset(
    {"finetuned_model", "layer_wise_gradient_decay_ratio", "predictor_class", "predictor_dropout"}
)
CLASSIFIER_PREFIX = "predictor."  # only fine-tuned files have it; we want states, not AudioSet classes
MOST_STATES = 8 * 188  # of a clip of 30 s with 128 bins
GATE_FEATURES = 8  # outputs of grep_linear: two gates, each the sum of four


@dataclass(frozen=True)
class BeatsConfig:
    """Dimensions of a BEATs encoder, named as in the published files' `cfg`; the defaults are the published base model.

    Only what the published models are can be built: GELU, relative positions, gates.
    """

    input_patch_size: int = 16
    embed_dim: int = 512
    conv_bias: bool = False
    encoder_layers: int = 12
    encoder_embed_dim: int = 768
    encoder_ffn_embed_dim: int = 3072
    encoder_attention_heads: int = 12
    activation_fn: str = "gelu"
    layer_norm_first: bool = False
    deep_norm: bool = True
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    encoder_layerdrop: float = 0.0
    dropout_input: float = 0.0
    conv_pos: int = 128
    conv_pos_groups: int = 16
    relative_position_embedding: bool = True
    num_buckets: int = 320
    max_distance: int = 800
    gru_rel_pos: bool = True

    def __post_init__(self) -> None:
        problems = []
        if self.encoder_layers < 1:
            problems.append("encoder_layers must be 1 or more")
        if self.activation_fn != "gelu":
            problems.append(f"activation_fn is {self.activation_fn!r}, only 'gelu' is known")
        if not (self.relative_position_embedding and self.gru_rel_pos):
            problems.append("relative_position_embedding and gru_rel_pos must be true")
        if self.layer_norm_first:
            problems.append("layer_norm_first must be false")
        if self.encoder_embed_dim % self.encoder_attention_heads:
            problems.append("encoder_embed_dim must be a multiple of encoder_attention_heads")
        if self.encoder_embed_dim % self.conv_pos_groups:
            problems.append("encoder_embed_dim must be a multiple of conv_pos_groups")
        if problems:
            raise CheckpointError(f"this BEATs model cannot be built:\n{listing(problems)}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "BeatsConfig":
        """Take a published `cfg`, passing over `IGNORED_FIELDS`.

        Raises:
            CheckpointError: a key that is neither known nor knowingly ignored, or a model that cannot be built.
        """
        return cls(**known_values(cls, values, IGNORED_FIELDS, "BEATs cfg"))


class BeatsEncoder(nn.Module):
    """Filter bank in, one state a patch out, time-major (n_mels / 16 states for each 160 ms).

    Weight names are the published ones. `output_dim` is the width of the states.
    """

    front_end = "beats"  # of nota_cli.features.batch.FRONT_ENDS

    def __init__(self, config: BeatsConfig):
        super().__init__()
        self.config = config
        self.output_dim = config.encoder_embed_dim
        patch = config.input_patch_size
        self.patch_embedding = nn.Conv2d(1, config.embed_dim, kernel_size=patch, stride=patch, bias=config.conv_bias)
        self.layer_norm = nn.LayerNorm(config.embed_dim)
        # The published model has no projection where the widths agree.
        self.post_extract_proj = (
            nn.Linear(config.embed_dim, config.encoder_embed_dim)
            if config.embed_dim != config.encoder_embed_dim
            else None
        )
        self.encoder = _Transformer(config)
        self._initialize()

    def forward(self, fbank: torch.Tensor, lengths: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode normalized filter banks (`nota_cli.features.spectrograms.kaldi_fbank`).

        Args:
            fbank: `[B, T, n_mels]`, 100 frames a second; n_mels a multiple of 16 (128 in the published models).
            lengths: `[B]`, real frames of each row; None says that all T are. Frames behind a row's last whole
                patch are dropped.

        Returns:
            states `[B, S, D]` with S = (T // 16) x (n_mels // 16), meaningless where padded, and mask `[B, S]`,
            True = real. A row's states are the same alone as in a batch.

        Raises:
            DataError: a row without one whole patch, or mel bins that do not fill patches.
        """
        patch = self.config.input_patch_size
        batch, n_frames, n_mels = fbank.shape
        if n_mels == 0 or n_mels % patch:
            raise DataError(f"BEATs wants a multiple of {patch} mel bins, got {n_mels}.")
        shortest = n_frames if lengths is None else int(lengths.min())
        if shortest < patch:
            raise DataError(f"BEATs needs at least {patch} frames ({patch * 10} ms) of every clip, got {shortest}.")

        fbank = fbank.to(self.patch_embedding.weight.dtype)
        tokens = self.patch_embedding(fbank[:, None]).flatten(2).transpose(1, 2)  # steps outer, mel patches inner
        states = self.layer_norm(tokens)
        if self.post_extract_proj is not None:
            states = self.post_extract_proj(states)
        states = F.dropout(states, p=self.config.dropout_input, training=self.training)

        n_states = states.shape[1]
        if lengths is None or shortest // patch == n_frames // patch:
            mask = torch.ones(batch, n_states, dtype=torch.bool, device=states.device)
            return self.encoder(states, None), mask
        real = lengths.to(states.device) // patch * (n_mels // patch)
        mask = torch.arange(n_states, device=states.device) < real[:, None]
        return self.encoder(states, mask), mask

    def _initialize(self) -> None:
        """As published: BERT's normals, then DeepNet's gains, which keep deep post-norm stacks trainable."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        gain = (8.0 * self.config.encoder_layers) ** -0.25 if self.config.deep_norm else 1.0
        layer: Any
        for layer in self.encoder.layers:
            nn.init.xavier_normal_(layer.self_attn.q_proj.weight)
            nn.init.xavier_normal_(layer.self_attn.k_proj.weight)
            for linear in (layer.self_attn.v_proj, layer.self_attn.out_proj, layer.fc1, layer.fc2):
                nn.init.xavier_normal_(linear.weight, gain=gain)


class _Transformer(nn.Module):
    """Positional convolution, LayerNorm, post-norm layers with one shared table of relative positions."""

    def __init__(self, config: BeatsConfig):
        super().__init__()
        self.config = config
        self.pos_conv = nn.Sequential(_PositionalConvolution(config))
        self.layer_norm = nn.LayerNorm(config.encoder_embed_dim)
        self.layers = nn.ModuleList(_Layer(config, owns_table=index == 0) for index in range(config.encoder_layers))

    def forward(self, states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        if mask is not None:  # the convolution reaches over a row's end and must find zeros there
            states = states.masked_fill(~mask[..., None], 0.0)
        states = self.layer_norm(states + self.pos_conv(states))
        states = F.dropout(states, p=self.config.dropout, training=self.training)
        bias = self._bias_by_distance(states.shape[1], states.device)
        for layer in self.layers:
            if self.training and torch.rand(()).item() < self.config.encoder_layerdrop:
                continue
            states = layer(states, bias, mask)
        return states

    def _bias_by_distance(self, n_states: int, device: torch.device) -> torch.Tensor:
        """`[heads, 2S - 1]`: the table's value for key - query = -(S - 1) .. S - 1, the same for all layers."""
        layer: Any = self.layers[0]
        table = layer.self_attn.relative_attention_bias
        sizes = self.config.num_buckets, self.config.max_distance
        if torch.compiler.is_exporting():  # n_states is a symbol there: the middle of a constant for the longest clip
            return table(_buckets(MOST_STATES, *sizes, device)[MOST_STATES - n_states : MOST_STATES + n_states - 1]).T
        return table(_buckets(n_states, *sizes, device)).T


class _PositionalConvolution(nn.Module):
    """Grouped convolution over time, weight-normed per kernel place, then GELU; `[B, S, D]` in and out."""

    def __init__(self, config: BeatsConfig):
        super().__init__()
        width, kernel, groups = config.encoder_embed_dim, config.conv_pos, config.conv_pos_groups
        self.groups = groups
        std = math.sqrt(4.0 * (1.0 - config.dropout) / (kernel * width))
        self.weight_v = nn.Parameter(torch.randn(width, width // groups, kernel) * std)
        self.weight_g = nn.Parameter(self.weight_v.detach().norm(dim=(0, 1), keepdim=True))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        kernel = self.weight_v.shape[-1]
        direction = self.weight_v.float()  # squares summed over many places do not fit half precision
        weight = self.weight_g * (direction / direction.norm(dim=(0, 1), keepdim=True)).to(self.weight_g.dtype)
        out = F.conv1d(states.transpose(1, 2), weight, self.bias, padding=kernel // 2, groups=self.groups)
        if kernel % 2 == 0:  # an even kernel gives one step too many
            out = out[..., :-1]
        return F.gelu(out).transpose(1, 2)


class _Attention(nn.Module):
    """Self-attention whose position bias is gated by the query (WavLM, Chen et al. 2021)."""

    def __init__(self, config: BeatsConfig, owns_table: bool):
        super().__init__()
        width, self.heads = config.encoder_embed_dim, config.encoder_attention_heads
        self.dropout = config.attention_dropout
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.grep_linear = nn.Linear(width // self.heads, GATE_FEATURES)
        self.grep_a = nn.Parameter(torch.ones(1, self.heads, 1, 1))
        if owns_table:
            self.relative_attention_bias = nn.Embedding(config.num_buckets, self.heads)

    def forward(self, states: torch.Tensor, by_distance: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        query, key, value = (
            project(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        halves = self.grep_linear(query).unflatten(-1, (2, GATE_FEATURES // 2)).sum(-1)
        gate_a, gate_b = torch.sigmoid(halves).split(1, dim=-1)  # [B, heads, S, 1]
        gate = gate_a * (gate_b * self.grep_a - 1.0) + 2.0
        out = gated_attention(query, key, value, gate, by_distance, mask, self.dropout if self.training else 0.0)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class _Layer(nn.Module):
    """Attention and feed-forward, each normed after its residual, which deep-norm makes heavier."""

    def __init__(self, config: BeatsConfig, owns_table: bool):
        super().__init__()
        self.config = config
        width = config.encoder_embed_dim
        self.residual_weight = (2.0 * config.encoder_layers) ** 0.25 if config.deep_norm else 1.0
        self.self_attn = _Attention(config, owns_table)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.encoder_ffn_embed_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_embed_dim, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, states: torch.Tensor, by_distance: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        attended = self._drop(self.self_attn(states, by_distance, mask), self.config.dropout)
        states = self.self_attn_layer_norm(states * self.residual_weight + attended)
        hidden = self._drop(F.gelu(self.fc1(states)), self.config.activation_dropout)
        return self.final_layer_norm(states * self.residual_weight + self._drop(self.fc2(hidden), self.config.dropout))

    def _drop(self, states: torch.Tensor, probability: float) -> torch.Tensor:
        return F.dropout(states, p=probability, training=self.training)


@functools.lru_cache(maxsize=256)
def _buckets(n_states: int, num_buckets: int, max_distance: int, device: torch.device) -> torch.Tensor:
    """`[2S - 1]`: T5's bucket of each distance key - query from -(S - 1) to S - 1 (Raffel et al. 2020).

    Half of the buckets are for keys ahead; of each half the first half holds one distance each, the rest grow
    logarithmically up to `max_distance`.
    """
    with torch.inference_mode(False):  # cached: what inference made first must serve training too
        distance = torch.arange(1 - n_states, n_states)
        half = num_buckets // 2
        exact = half // 2
        size = distance.abs()
        growth = (size.clamp(min=1).float() / exact).log() / math.log(max_distance / exact)
        far = (exact + (growth * (half - exact)).long()).clamp(max=half - 1)
        return ((distance > 0).long() * half + torch.where(size < exact, size, far)).to(device)


def load_beats(path: str | Path) -> BeatsEncoder:
    """Read a published BEATs file (`{"cfg", "model"}`), in evaluation mode; its classifier is left out.

    Only tensors and plain values are unpickled: a file that would run code is refused.

    Raises:
        CheckpointError: the file is missing, damaged or of another kind, or its weights are not exactly its cfg's.
    """
    checkpoint = read_torch_file(path)
    if not (isinstance(checkpoint, dict) and all(isinstance(checkpoint.get(key), dict) for key in ("cfg", "model"))):
        raise CheckpointError(f"{path}: not a BEATs checkpoint, which holds `cfg` and `model`.")

    with torch.device("meta"):  # no memory and no time for an initialization that is replaced at once
        encoder = BeatsEncoder(BeatsConfig.from_dict(checkpoint["cfg"]))
    named = plain_names(checkpoint["model"], path, encoder.state_dict())
    weights = {name: value for name, value in named.items() if not name.startswith(CLASSIFIER_PREFIX)}
    problems = _drop_repeated_tables(weights)
    problems += key_problems(weights, encoder.state_dict(), "cfg")
    if problems:
        raise CheckpointError(f"{path}: the weights do not fit the cfg:\n{listing(problems)}")
    refuse_non_finite(path, weights)
    encoder.load_state_dict({name: value.float() for name, value in weights.items()}, assign=True)
    return encoder.eval()


def _drop_repeated_tables(weights: dict[str, torch.Tensor]) -> list[str]:
    """Remove the further layers' copies of layer 0's position table; names those that are no copies."""
    suffix = ".self_attn.relative_attention_bias.weight"
    owner = f"encoder.layers.0{suffix}"
    repeated = [name for name in weights if name.endswith(suffix) and name != owner]
    table = weights.get(owner)
    return [
        f"differs from layer 0's, which all share: {name}"
        for name in repeated
        if not (table is not None and torch.equal(weights.pop(name), table))
    ]


ENCODER = EncoderEntry(
    from_config=lambda values, spec: BeatsEncoder(BeatsConfig.from_dict(values)),
    load=lambda path, spec: load_beats(path),
    layers="encoder.layers",
    layer_count="encoder_layers",
    config_values=lambda encoder: non_default_fields(encoder.config, list(BeatsConfig.__dataclass_fields__)),
    shared=".relative_attention_bias.weight",  # kept by layer 0, whichever that is, for all layers
    residual_scales=lambda encoder: (".self_attn.out_proj.", ".fc2.") if encoder.config.deep_norm else (),
)
