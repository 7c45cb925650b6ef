"""A decoder to a GGUF file that llama.cpp runs on embeddings.

Names of keys and tensors are those of the package `gguf`; what llama.cpp expects inside the tensors (rotated halves in
Llama's queries and keys, one added to Gemma's norms) follows its graphs in `src/models/*.cpp`.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nota_cli.errors import NotaError, RecipeError
from nota_cli.export.gguf_tokenizer import add_tokenizer
from nota_cli.export.graphs import cache_shape, slides, token_scale
from nota_cli.generation.runtimes.llama_cpp import gguf_package, last_error, llama_cpp
from nota_cli.models.families.salmonn import Salmonn
from nota_cli.recipe.exported import GGUF_FILE, GgufEntry, TableEntry

Array = np.ndarray[Any, Any]

BITS = {"f16": 16, "q8_0": 8, "q5_k_m": 5, "q4_k_m": 4}
"""Formats, and the number of bits by which the parity gate judges them."""
QUANTIZED = {"q5_k_m": "LLAMA_FTYPE_MOSTLY_Q5_K_M", "q4_k_m": "LLAMA_FTYPE_MOSTLY_Q4_K_M"}
"""Formats that llama.cpp's own quantizer writes, with its names for them; the others are numpy's work."""
BLOCK = 32  # weights of a row that share a scale in Q8_0


@dataclass(frozen=True)
class Architecture:
    """What llama.cpp makes of a family of transformers.

    Attributes:
        name: llama.cpp's.
        activation: the only one that its graph has.
        interleaved: whether queries and keys are rotated in neighboring pairs, where transformers rotates halves.
        norm_offset: added to the weights of all norms.
        scales_inputs: whether its graph multiplies embeddings that are fed to it by sqrt(width), as it does tokens.
        may_untie: whether its output layer may have weights of its own.
        fixed_heads: whether width / heads must be the width of a head.
    """

    name: str
    activation: str = "silu"
    interleaved: bool = False
    norm_offset: float = 0.0
    scales_inputs: bool = False
    may_untie: bool = True
    fixed_heads: bool = False


GEMMA = "gelu_pytorch_tanh"
ARCHITECTURES = {
    "llama": Architecture("llama", interleaved=True),
    "qwen2": Architecture("qwen2", fixed_heads=True),
    "qwen3": Architecture("qwen3"),
    "gemma2": Architecture("gemma2", GEMMA, norm_offset=1.0, scales_inputs=True, may_untie=False),
    "gemma3_text": Architecture("gemma3", GEMMA, norm_offset=1.0),
}
"""By transformers' `model_type`."""


def architecture_of(config: Any, name: str) -> Architecture:
    """The architecture of a decoder, its settings held against what llama.cpp's graph has.

    Args:
        config: transformers' of the decoder.
        name: the recipe's, for messages.

    Raises:
        RecipeError: llama.cpp would compute something else; what it is is named.
    """
    refused = f"recipe {name!r} cannot be written as GGUF: "
    known = ARCHITECTURES.get(config.model_type)
    if known is None:
        raise RecipeError(f"{refused}its decoder is {config.model_type}, and nota writes {', '.join(ARCHITECTURES)}")
    heads, (_, _, width) = int(config.num_attention_heads), cache_shape(config)
    activation = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    if activation != known.activation:
        raise RecipeError(f"{refused}its activation is {activation}, llama.cpp's {known.name} has {known.activation}")
    if known.fixed_heads and width * heads != config.hidden_size:
        raise RecipeError(f"{refused}{heads} heads of {width} do not make its width {config.hidden_size}")
    for parameters in rope_parameters(config).values():
        kind = parameters.get("rope_type", "default")
        if kind not in (("default", "linear", "llama3") if known.name == "llama" else ("default",)):
            raise RecipeError(f"{refused}llama.cpp's {known.name} gets no rotary embedding of type {kind} from nota")
    if slides(config) and known.name not in ("gemma2", "gemma3"):
        raise RecipeError(f"{refused}llama.cpp's {known.name} has no sliding window")
    scalar = getattr(config, "query_pre_attn_scalar", width)
    if scalar != width:
        raise RecipeError(f"{refused}query_pre_attn_scalar is {scalar}, llama.cpp scales by the head's width {width}")
    capped = bool(getattr(config, "attn_logit_softcapping", None))
    if capped != (known.name == "gemma2"):
        raise RecipeError(f"{refused}llama.cpp's {known.name} has {'no' if capped else 'an'} attn_logit_softcapping")
    if getattr(config, "use_bidirectional_attention", None):
        raise RecipeError(f"{refused}its attention is bidirectional")
    return known


def rope_parameters(config: Any) -> dict[str, dict[str, Any]]:
    """Settings of the rotary embedding by type of layer; of one type alone under `full_attention`."""
    values = dict(config.rope_parameters)
    if "full_attention" in values:
        return values
    return {"full_attention": values}


def write_decoder(model: Salmonn, folder: Path, kind: str) -> GgufEntry:
    """Write the decoder and its tokenizer as `decoder.gguf`.

    Args:
        model: of `nota_cli.export.onnx.source_model`: in float32, adapters merged, layers plain.
        folder: where to.
        kind: one of `BITS`.

    Raises:
        RecipeError: llama.cpp has no such decoder.
        NotaError: a package of the extra `gguf` is missing, or llama.cpp's quantizer fails.
    """
    target = folder / GGUF_FILE
    known = architecture_of(model.decoder.base.config, model.recipe.name)
    if kind in QUANTIZED:
        with tempfile.TemporaryDirectory(dir=folder.parent) as work:
            full = Path(work) / GGUF_FILE
            tokenizer = _write(model, full, known, "f32")
            _quantize(full, target, kind)
    else:
        tokenizer = _write(model, target, known, kind)
    scale = token_scale(model.decoder)
    return GgufEntry(
        format=kind,
        architecture=known.name,
        tokenizer=tokenizer,
        token_scale=scale,
        input_scale=scale if known.scales_inputs else 1.0,
        table=_table(target),
    )


@torch.no_grad()
def _write(model: Salmonn, target: Path, known: Architecture, kind: str) -> str:
    """The file in `f32`, `f16` or `q8_0`; returns the kind of tokenizer in it."""
    gguf = gguf_package()
    writer = gguf.GGUFWriter(target, known.name)
    try:
        _add_settings(writer, model, known, kind)
        tokenizer = add_tokenizer(writer, model.decoder.tokenizer, _token_table(model).shape[0])
        for name, values in _tensors(model, known):
            data, stored = _stored(values, kind)
            writer.add_tensor(name, data, raw_dtype=stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    return tokenizer


def _add_settings(writer: Any, model: Salmonn, known: Architecture, kind: str) -> None:
    gguf, config = gguf_package(), model.decoder.base.config
    layers, heads, width = cache_shape(config)
    file_types = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0"}
    writer.add_name(model.recipe.name)
    writer.add_file_type(gguf.LlamaFileType[file_types[kind]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(_token_table(model).shape[0])
    writer.add_context_length(int(config.max_position_embeddings))
    writer.add_embedding_length(int(config.hidden_size))
    writer.add_block_count(layers)
    writer.add_feed_forward_length(int(config.intermediate_size))
    writer.add_head_count(int(config.num_attention_heads))
    writer.add_head_count_kv(heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(float(config.rms_norm_eps))
    writer.add_rope_dimension_count(width)
    rope = rope_parameters(config)
    writer.add_rope_freq_base(float(rope["full_attention"]["rope_theta"]))
    if "sliding_attention" in rope:
        writer.add_rope_freq_base_swa(float(rope["sliding_attention"]["rope_theta"]))
    if slides(config):
        writer.add_sliding_window(int(config.sliding_window))
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layer_types])
    if known.name == "gemma2":
        writer.add_attn_logit_softcapping(float(config.attn_logit_softcapping))
    if hasattr(config, "final_logit_softcapping"):
        writer.add_final_logit_softcapping(float(config.final_logit_softcapping or 0.0))  # left out, Gemma 2 gets 30


def _token_table(model: Salmonn) -> torch.Tensor:
    table: torch.Tensor = model.decoder.base.get_input_embeddings().weight
    return table


def _tensors(model: Salmonn, known: Architecture) -> Iterator[tuple[str, Array]]:
    """llama.cpp's names and float32 values, the token table first."""
    gguf, base = gguf_package(), model.decoder.base
    names = gguf.get_tensor_name_map(_gguf_architecture(known), int(base.config.num_hidden_layers))
    table, head = _token_table(model), base.get_output_embeddings()
    tied = head.weight.data_ptr() == table.data_ptr() or torch.equal(head.weight, table)
    if not (tied or known.may_untie):
        raise RecipeError(
            f"recipe {model.recipe.name!r} cannot be written as GGUF: its output layer is not its token embedding, as "
            f"llama.cpp's {known.name} has it"
        )
    yield "token_embd.weight", table.detach().float().numpy()
    for name, parameter in base.named_parameters():
        if parameter is table or (tied and parameter is head.weight):
            continue
        own = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if own is None:
            raise RecipeError(
                f"recipe {model.recipe.name!r} cannot be written as GGUF: llama.cpp's {known.name} has no {name}"
            )
        values = parameter.detach().float().numpy()
        if known.interleaved and (".q_proj." in name or ".k_proj." in name):
            values = interleave(values, cache_shape(base.config)[2])
        yield own, values + np.float32(known.norm_offset) if name.endswith("norm.weight") else values
    factors = _frequency_factors(base)
    if factors is not None:
        yield "rope_freqs.weight", factors


def interleave(values: Array, width: int) -> Array:
    """Rows of a query's or key's projection, head by head: transformers' two halves to neighboring pairs.

    Args:
        values: weight `[heads * width, inner]` or bias `[heads * width]`.
        width: of a head.
    """
    halves = values.reshape(-1, 2, width // 2, *values.shape[1:])
    rows: Array = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
    return rows


def _frequency_factors(base: Any) -> Array | None:
    """What llama.cpp divides each rotary frequency by; None where all are 1."""
    rope = rope_parameters(base.config)["full_attention"]
    if rope.get("rope_type", "default") == "default":
        return None
    width = cache_shape(base.config)[2]
    plain = float(rope["rope_theta"]) ** (-np.arange(0, width, 2, dtype=np.float64) / width)
    factors: Array = plain / base.model.rotary_emb.inv_freq.double().numpy()
    return factors.astype(np.float32)


def _stored(values: Array, kind: str) -> tuple[Array, Any]:
    """Values as they lie in the file; vectors stay in float32."""
    gguf = gguf_package()
    types = gguf.GGMLQuantizationType
    stored = types.F32
    if values.ndim == 2 and kind != "f32":
        stored = types.Q8_0 if kind == "q8_0" and values.shape[1] % BLOCK == 0 else types.F16
    if stored is types.F16 and np.abs(values).max() > np.finfo(np.float16).max:
        raise NotaError("a weight of the decoder is larger than float16 can hold: take another format than f16")
    return gguf.quants.quantize(values, stored), stored


def _table(file: Path) -> TableEntry:
    """Where the token table lies in the file."""
    tensor = next(each for each in gguf_package().GGUFReader(file).tensors if each.name == "token_embd.weight")
    rows = int(tensor.shape[1])
    return TableEntry(
        type=tensor.tensor_type.name, offset=int(tensor.data_offset), rows=rows, row_bytes=tensor.n_bytes // rows
    )


def _quantize(source: Path, target: Path, kind: str) -> None:
    llama = llama_cpp()
    params = llama.llama_model_quantize_default_params()
    params.ftype = getattr(llama, QUANTIZED[kind])
    if llama.llama_model_quantize(str(source).encode(), str(target).encode(), params) != 0:
        raise NotaError(f"llama.cpp could not write {kind}: {last_error()}. Take --decoder-format q8_0.")


def _gguf_architecture(known: Architecture) -> Any:
    return next(key for key, value in gguf_package().MODEL_ARCH_NAMES.items() if value == known.name)
