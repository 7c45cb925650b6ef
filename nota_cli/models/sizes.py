"""Parameters and bytes of a recipe's parts by arithmetic: what `count_parts` counts, without a model or torch."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nota_cli.errors import RecipeError
from nota_cli.models.architectures import architecture
from nota_cli.models.parts import Part
from nota_cli.models.vocabulary import kept_rows
from nota_cli.recipe.connectors import SUMMARY_WIDTH
from nota_cli.recipe.schema import AudioEncoder, Decoder, Encoder, Recipe

BYTES = {"int64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
GATE_FEATURES = 8  # of BEATs' gated positions
CED_BEATS_FRAMES = 3001  # that CED's time table has room for, at least, with BEATs' scaling
ENCODER_GROUPS = {"int8": (8, (128, 64, 32)), "int4": (4, (64, 32))}
NF4_BLOCK, NF4_NESTED_BLOCK = 64, 256  # weights that share a scale, scales that share a scale
GPTQ_DEFAULTS = {"bits": 4, "group_size": 128}

DEFAULTS: dict[str, dict[str, Any]] = {
    "whisper": {
        "num_mel_bins": 80,
        "d_model": 384,
        "encoder_layers": 4,
        "encoder_ffn_dim": 1536,
        "max_source_positions": 1500,
    },
    "beats": {
        "input_patch_size": 16,
        "embed_dim": 512,
        "conv_bias": False,
        "encoder_layers": 12,
        "encoder_embed_dim": 768,
        "encoder_ffn_embed_dim": 3072,
        "encoder_attention_heads": 12,
        "conv_pos": 128,
        "conv_pos_groups": 16,
        "num_buckets": 320,
    },
    "ced": {
        "embed_dim": 768,
        "depth": 12,
        "mlp_ratio": 4.0,
        "qkv_bias": True,
        "patch_size": 16,
        "n_mels": 64,
        "target_length": 1012,
    },
    "eat": {"embed_dim": 768, "depth": 12, "patch_size": 16, "mlp_ratio": 4.0, "qkv_bias": True},
}
"""What encoders take for what a config does not say."""


@dataclass
class PartSize:
    """A `Part` that is still being counted, and how its numbers are held."""

    name: str
    dtype: str = "float32"
    quantization: str = "none"
    packing: dict[str, int] = field(default_factory=dict)
    parameters: int = 0
    by_type: Counter[str] = field(default_factory=Counter)

    def plain(self, numbers: int) -> None:
        """Parameters that are never quantized."""
        self.parameters += numbers
        self.buffer(numbers)

    def buffer(self, numbers: int, dtype: str | None = None) -> None:
        """Numbers that are not learnt."""
        self.by_type[dtype or self.dtype] += numbers * BYTES[dtype or self.dtype]

    def norm(self, width: int) -> None:
        """A LayerNorm's weight and bias."""
        self.plain(2 * width)

    def linear(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        """A linear layer, packed where the part is quantized."""
        if bias:
            self.plain(outputs)
        if self.quantization == "none" or (self.quantization in ENCODER_GROUPS and inputs % 2):
            self.plain(inputs * outputs)
            return
        self.parameters += inputs * outputs
        bits, size = self._packed(inputs, outputs)
        self.by_type[f"{bits}-bit"] += size

    def _packed(self, inputs: int, outputs: int) -> tuple[int, int]:
        """Bits of a packed layer, and its bytes with scales and zero points."""
        if self.quantization in ENCODER_GROUPS:
            bits, sizes = ENCODER_GROUPS[self.quantization]
            groups = inputs // next((size for size in sizes if inputs % size == 0), inputs)
            zeros = outputs * groups if bits == 4 else 0
            return bits, inputs * outputs * bits // 8 + 2 * outputs * groups + zeros
        if self.quantization == "nf4":
            blocks = -(-inputs * outputs // NF4_BLOCK)
            nested = 4 + 4 * -(-blocks // NF4_NESTED_BLOCK) + 4 * 256  # offset, scales of scales, their code
            return 4, inputs * outputs // 2 + blocks + 4 * 16 + nested
        bits, group = self.packing["bits"], self.packing["group_size"]
        groups = -(-inputs // group) if group > 0 else 1
        zeros = 4 * groups * (outputs * bits // 32)
        scales = groups * outputs * (4 if self.dtype == "float32" else 2)
        shifts = 2 * 4 * (32 // bits)  # that the kernel unpacks words by
        return bits, inputs * outputs * bits // 8 + zeros + scales + shifts + 4 * inputs  # and each input's group


def part_sizes(recipe: Recipe) -> list[Part]:
    """The parts of a recipe's model, as `Salmonn.parts` counts a model with dummy weights.

    Raises:
        RecipeError: a part's shape is not known here: no architecture file, or a config that does not say enough.
    """
    try:
        speech, speech_width = _encoder("speech_encoder", recipe.speech_encoder.kind, recipe.speech_encoder, {})
        parts, audio_width = [speech], 0
        if recipe.audio_encoder.kind != "none":
            audio, audio_width = _audio_encoder(recipe.audio_encoder)
            parts.append(audio)
        decoder, config = _decoder(recipe.decoder)
        parts += [_connector(recipe, speech_width, audio_width, config["hidden_size"]), decoder]
        if recipe.lora is not None:
            parts.append(_lora(recipe, config))
        return [Part(part.name, part.parameters, dict(part.by_type)) for part in parts]
    except KeyError as error:
        raise RecipeError(f"recipe {recipe.name!r}: a config lacks {error}, without which no size is known") from error


def _encoder(name: str, kind: str, spec: Encoder, more: Mapping[str, Any]) -> tuple[PartSize, int]:
    values = spec.config if spec.config is not None else architecture(str(spec.path), kind)["config"]
    part = PartSize(name, spec.dtype, spec.quantization)
    counters = {"whisper": _whisper, "beats": _beats, "ced": _ced, "eat": _eat}
    if kind not in counters:
        raise RecipeError(f"{name}: the size of a {kind} encoder is not known without building it")
    return part, counters[kind](part, {**DEFAULTS[kind], **values, **more})


def _audio_encoder(spec: AudioEncoder) -> tuple[PartSize, int]:
    return _encoder("audio_encoder", spec.kind, spec, {"scaling": spec.scaling})


def _whisper(part: PartSize, config: Mapping[str, Any]) -> int:
    width, hidden = config["d_model"], config["encoder_ffn_dim"]
    part.plain(3 * config["num_mel_bins"] * width + width)
    part.plain(3 * width * width + width)
    part.plain(config["max_source_positions"] * width)
    for _ in range(config["encoder_layers"]):
        for bias in (True, False, True, True):  # queries, keys, values, output
            part.linear(width, width, bias=bias)
        _feed_forward(part, width, hidden)
    part.norm(width)
    return int(width)


def _beats(part: PartSize, config: Mapping[str, Any]) -> int:
    patches, width, heads = config["embed_dim"], config["encoder_embed_dim"], config["encoder_attention_heads"]
    part.plain(patches * config["input_patch_size"] ** 2 + patches * config["conv_bias"])
    part.norm(patches)
    if patches != width:
        part.linear(patches, width)
    part.plain(width * (width // config["conv_pos_groups"]) * config["conv_pos"] + config["conv_pos"] + width)
    part.norm(width)
    part.plain(config["num_buckets"] * heads)
    for _ in range(config["encoder_layers"]):
        for _ in range(4):
            part.linear(width, width)
        part.linear(width // heads, GATE_FEATURES)
        part.plain(heads)
        _feed_forward(part, width, config["encoder_ffn_embed_dim"])
    return int(width)


def _ced(part: PartSize, config: Mapping[str, Any]) -> int:
    width, patch, bins = config["embed_dim"], config["patch_size"], config["n_mels"]
    frames = config["target_length"]
    if config["scaling"] == "beats":
        frames = max(frames, CED_BEATS_FRAMES)
    part.plain(width * (frames // patch) + width * (bins // patch))
    part.norm(bins)
    part.buffer(2 * bins)  # the running figures of that batch norm, and the count of its batches
    part.buffer(1, "int64")
    _vision(part, config)
    part.norm(width)
    return int(width)


def _eat(part: PartSize, config: Mapping[str, Any]) -> int:
    part.plain(config["embed_dim"])
    part.norm(config["embed_dim"])
    _vision(part, config)
    return int(config["embed_dim"])


def _vision(part: PartSize, config: Mapping[str, Any]) -> None:
    """Patches, and the blocks that CED and EAT share."""
    width = config["embed_dim"]
    part.plain(width * config["patch_size"] ** 2 + width)
    for _ in range(config["depth"]):
        part.linear(width, 3 * width, bias=config["qkv_bias"])
        part.linear(width, width)
        _feed_forward(part, width, int(width * config["mlp_ratio"]))


def _feed_forward(part: PartSize, width: int, hidden: int) -> None:
    """Two layers, and the two norms of a block."""
    part.linear(width, hidden)
    part.linear(hidden, width)
    part.norm(width)
    part.norm(width)


def _connector(recipe: Recipe, speech: int, audio: int, decoder: int) -> PartSize:
    spec = recipe.connector
    part = PartSize("connector", quantization=spec.quantization)
    if spec.summary:
        part.norm(speech + audio)
        part.norm(speech + audio)
        part.linear(2 * (speech + audio), SUMMARY_WIDTH)
        part.linear(SUMMARY_WIDTH, spec.summary * decoder)
    if spec.kind not in ("qformer", "stack_mlp"):
        raise RecipeError(f"connector: the size of a {spec.kind} is not known without building it")
    if spec.kind == "stack_mlp":
        stacked, gated = spec.stack * (speech + audio), spec.hidden_size // 2
        part.plain(stacked + gated)  # norms without a bias
        part.linear(stacked, spec.hidden_size, bias=False)
        part.linear(gated, decoder, bias=False)
        return part
    part.norm(speech)
    if audio:
        part.norm(audio)
    width = spec.hidden_size
    part.plain(spec.queries * width)
    part.norm(width)
    for _ in range(spec.layers):
        for memory in (width, speech + audio):
            part.linear(width, width)
            part.linear(memory, width)
            part.linear(memory, width)
            part.linear(width, width)
            part.norm(width)
        part.linear(width, spec.intermediate_size)
        part.linear(spec.intermediate_size, width)
        part.norm(width)
    part.linear(width, decoder)
    return part


def _decoder(spec: Decoder) -> tuple[PartSize, dict[str, Any]]:
    config = dict(spec.config) if spec.config is not None else dict(architecture(str(spec.path), "decoder")["config"])
    if "vocab_size" not in config:
        config["vocab_size"] = _tokens(str(spec.tokenizer))
    stored = config.pop("quantization_config", None) or {}
    packing = {**GPTQ_DEFAULTS, **{key: stored[key] for key in GPTQ_DEFAULTS if key in stored}}
    part = PartSize("decoder", spec.dtype, spec.quantization, packing)
    kind, width, heads = config["model_type"], config["hidden_size"], config["num_attention_heads"]
    if kind not in ("llama", "gemma2", "gemma3_text", "qwen2", "llama_moe"):
        raise RecipeError(f"decoder: the size of a {kind} is not known here")
    gemma = kind in ("gemma2", "gemma3_text")
    vocabulary = config["vocab_size"]
    if spec.path is not None and spec.tokenizer is not None:
        kept = kept_rows(Path(spec.tokenizer), vocabulary)
        vocabulary = vocabulary if kept is None else len(kept)
    if spec.pad_token is not None:
        vocabulary += 1
    part.plain(vocabulary * width * (1 if config.get("tie_word_embeddings", gemma) else 2))
    head = config.get("head_dim") or width // heads
    rotations = 2 if kind == "gemma3_text" else 1  # of the layers that see everything, and of those with a window
    part.buffer(rotations * 2 * (head // 2), "float32")  # their frequencies, and what they were at first
    if gemma:
        part.buffer(1)  # the scale of its embeddings
    for _ in range(config["num_hidden_layers"]):
        for inputs, outputs, bias in _attention(config):
            part.linear(inputs, outputs, bias=bias)
        _mlp(part, config)
        part.plain((4 if gemma else 2) * width)
        if kind == "gemma3_text":
            part.plain(2 * head)  # norms of queries and keys
    part.plain(width)
    return part, config


def _attention(config: Mapping[str, Any]) -> list[tuple[int, int, bool]]:
    """Inputs, outputs and bias of a decoder layer's projections of queries, keys and values, and of its output."""
    width, heads = config["hidden_size"], config["num_attention_heads"]
    head = config.get("head_dim") or width // heads
    queries, keys = heads * head, config.get("num_key_value_heads", heads) * head
    bias = bool(config.get("attention_bias", False))
    inner = bias or config["model_type"] == "qwen2"
    return [(width, queries, inner), (width, keys, inner), (width, keys, inner), (queries, width, bias)]


def _mlp(part: PartSize, config: Mapping[str, Any]) -> None:
    width, hidden = config["hidden_size"], config["intermediate_size"]
    if config["model_type"] != "llama_moe":
        for inputs, outputs in ((width, hidden), (width, hidden), (hidden, width)):
            part.linear(inputs, outputs, bias=bool(config.get("mlp_bias", False)))
        return
    sizes = config.get("size_experts")
    part.plain(3 * width * (hidden if sizes is None else sum(map(sum, sizes)) // len(sizes)))  # bare, never quantized
    experts = config["num_experts"]
    part.linear(width, experts, bias=False)
    if config.get("gate_network", "mlp") == "mlp":
        part.linear(experts, experts, bias=False)
    if config.get("gate_add_noise", True):
        part.linear(width, experts, bias=False)


def _lora(recipe: Recipe, config: Mapping[str, Any]) -> PartSize:
    """Two thin matrices beside each layer that the recipe adapts."""
    assert recipe.lora is not None
    part = PartSize("lora")
    width, hidden = config["hidden_size"], config["intermediate_size"]
    shapes = dict(zip(("q_proj", "k_proj", "v_proj", "o_proj"), _attention(config), strict=True))
    sizes = {name: (inputs, outputs) for name, (inputs, outputs, _) in shapes.items()}
    sizes |= {"gate_proj": (width, hidden), "up_proj": (width, hidden), "down_proj": (hidden, width)}
    for target in recipe.lora.targets:
        inputs, outputs = sizes[target]
        part.plain(config["num_hidden_layers"] * recipe.lora.rank * (inputs + outputs))
    return part


def _tokens(folder: str) -> int:
    """How many tokens a tokenizer folder's `tokenizer.json` has, added ones included."""
    file = Path(folder) / "tokenizer.json"
    if not file.is_file():
        raise RecipeError(f"decoder: its size needs vocab_size or the tokenizer, and there is no {file}")
    content = json.loads(file.read_text(encoding="utf-8"))
    added = {token["content"] for token in content.get("added_tokens", [])}
    return len(set(content["model"]["vocab"]) | added)
