"""What a GPTQ folder says about its weights: its two files held against each other and against the weights themselves.

Kernels differ in which of these words they believe; here all are checked once, so that every kernel gives the same.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nota_cli.console import warn
from nota_cli.errors import CheckpointError, listing
from nota_cli.weights.files import (
    INDEX,
    SINGLE,
    open_safetensors,
    quantization_config,
    read_json,
    tensor_shapes,
    weight_files,
)
from nota_cli.weights.state_dicts import without_wrapping_modules

CONFIG, OLD_CONFIG = "config.json", "quantize_config.json"
BITS = (2, 3, 4, 8)
FORMATS = ("gptq", "gptq_v2")
"""How zero points lie in the file: less one (AutoGPTQ's), or as they are."""
WORD = 32  # bits of a word that codes are packed in
ALIASES = {"format": "checkpoint_format", "method": "quant_method"}
DEFAULTS = {"group_size": 128, "desc_act": False, "sym": True, "checkpoint_format": "gptq"}
# Keys that change what the weights stand for.
COMPARED = ("quant_method", "bits", *DEFAULTS, "lm_head", "dynamic", "pack_dtype", "is_marlin_format")
PARTS = ("qweight", "qzeros", "scales", "g_idx")


@dataclass(frozen=True)
class GptqSettings:
    """How a folder's quantized weights are to be read.

    Attributes:
        file: which file says so, for messages.
        bits: of a code; 2, 3, 4 or 8.
        group_size: inputs that share a scale; -1: all of a layer.
        desc_act: the groups' inputs are not neighbors (`g_idx` names each input's group).
        sym: every zero point is the middle code.
        checkpoint_format: one of `FORMATS`.
        layers: names of the quantized layers; None where the files were not looked at.
        values: everything that the folder says.
    """

    file: Path
    bits: int
    group_size: int
    desc_act: bool
    sym: bool
    checkpoint_format: str
    layers: tuple[str, ...] | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    def for_optimum(self, backend: str) -> dict[str, Any]:
        """The `quantization_config` that makes transformers load these weights, and nothing that it may mistake."""
        given = {key: getattr(self, key) for key in ("bits", "group_size", "desc_act", "sym", "checkpoint_format")}
        if self.layers is not None:  # else transformers would quantize every linear layer of the blocks
            given["modules_in_block_to_quantize"] = [list(self.layers)]
        if self.values.get("block_name_to_quantize"):
            given["block_name_to_quantize"] = self.values["block_name_to_quantize"]
        return {**given, "quant_method": "gptq", "meta": self.values.get("meta"), "backend": backend}


def stated_settings(folder: Path) -> dict[str, Any] | None:
    """What a folder's files say about its GPTQ weights, by the current names of the keys; None if it holds none.

    Raises:
        CheckpointError: a file is not JSON or a Git LFS pointer, or the two contradict each other.
    """
    new, old = _stated(folder / CONFIG), _stated(folder / OLD_CONFIG)
    method = (new or {}).get("quant_method", "gptq" if old and not new else None)
    if method != "gptq":
        return None
    for key in COMPARED:
        if new and old and key in new and key in old and new[key] != old[key]:
            raise CheckpointError(
                f"{folder}: {key} is {new[key]!r} in {CONFIG} (quantization_config) and {old[key]!r} in {OLD_CONFIG}. "
                "Only one can be how the weights were made: correct the other, or remove it."
            )
    values = {**(old or {}), **(new or {})}
    return values if values.get("bits") else None


def quantization_method(folder: Path) -> str | None:
    """The `quant_method` that a folder's config.json, or AutoGPTQ's file, names; None where nothing is quantized.

    Raises:
        CheckpointError: as `stated_settings`.
    """
    if stated_settings(folder) is not None:
        return "gptq"
    return (_stated(folder / CONFIG) or {}).get("quant_method")


def read_settings(folder: Path) -> GptqSettings | None:
    """How a GPTQ folder's weights are to be read; None if it is no GPTQ folder.

    A wrong `desc_act` is corrected, with a warning, as `g_idx` settles it; everything else that contradicts the weights
    is refused.

    Raises:
        CheckpointError: what the files say is unknown here, contradicts itself or the weights; file and key are named.
    """
    values = stated_settings(folder)
    if values is None:
        return None
    file = folder / (CONFIG if _stated(folder / CONFIG) else OLD_CONFIG)
    known = check_values(values, file)
    if not any((folder / name).is_file() for name in (SINGLE, INDEX)):
        return known
    return _checked(known, folder)


def check_values(values: Mapping[str, Any], file: Path) -> GptqSettings:
    """The settings in a `quantization_config`, each of a kind that is known here; the weights are not looked at.

    Raises:
        CheckpointError: a value is out of range or stands for weights that nota cannot read; file and key are named.
    """
    given = {**DEFAULTS, **{key: value for key, value in values.items() if value is not None}}

    def refuse(key: str, reason: str) -> None:
        where = f"{file}: quantization_config.{key}" if file.name == CONFIG else f"{file}: {key}"
        raise CheckpointError(f"{where} is {given.get(key)!r}, {reason}.")

    layout = given["checkpoint_format"]
    if given.get("is_marlin_format") or layout not in FORMATS:
        key = "checkpoint_format" if layout not in FORMATS else "is_marlin_format"
        refuse(key, f"but nota reads {' and '.join(FORMATS)} only: save the model in one of these with GPTQModel")
    if type(given.get("bits")) is not int or given["bits"] not in BITS:
        refuse("bits", f"not one of {', '.join(map(str, BITS))}")
    size = given["group_size"]
    if type(size) is not int or (size < 1 and size != -1):
        refuse("group_size", "not a number of inputs that share a scale, nor -1 for all")
    for key in ("desc_act", "sym"):
        if type(given[key]) is not bool:
            refuse(key, "not true or false")
    if given.get("lm_head"):
        refuse("lm_head", "but nota reads decoders whose output layer is not quantized: quantize it without lm_head")
    if str(given.get("pack_dtype", "int32")).removeprefix("torch.") != "int32":
        refuse("pack_dtype", "but nota reads codes packed in int32 only")
    for key in ("adapter", "rotation", "activation"):
        if given.get(key):
            refuse(key, "which changes what the layers compute and is not supported: quantize the model without it")
    for pattern, changes in (given.get("dynamic") or {}).items():
        if pattern.startswith("-:"):
            continue  # layers that were left out: the file shows which
        changed = [key for key in ("bits", *DEFAULTS) if key in (changes or {}) and changes[key] != given.get(key)]
        if changed:
            refuse("dynamic", f"but nota reads layers of one kind only, and {pattern} has its own {changed[0]}")
    own = {key: given[key] for key in ("bits", "group_size", "desc_act", "sym", "checkpoint_format")}
    return GptqSettings(file, **own, values=dict(values))


def _stated(file: Path) -> dict[str, Any] | None:
    """The quantization that a file describes, its keys by their current names; None if the file or the entry is absent.

    AutoGPTQ's own file leaves the method out.
    """
    if not file.is_file():
        return None
    content = quantization_config(file.parent) if file.name == CONFIG else read_json(file)
    if content is None:
        return None
    values = {} if file.name == CONFIG else {"quant_method": "gptq"}
    for key, value in content.items():
        name = ALIASES.get(key, key)
        if name in ("checkpoint_format", "quant_method") and isinstance(value, str):
            value = value.lower()
        if key in ALIASES and content.get(name) is not None and str(content[name]).lower() != value:
            raise CheckpointError(f"{file}: {key} is {value!r} and {name} is {content[name]!r}; remove the wrong one.")
        if name != "dataset" and (value is not None or name not in values):  # the calibration text is of no use here
            values[str(name)] = value
    return values


def _checked(known: GptqSettings, folder: Path) -> GptqSettings:
    """The settings as the weights confirm them, with the names of the quantized layers."""
    files = weight_files(folder)
    shapes = {name: shape for file in files for name, shape in tensor_shapes(file).items()}
    layers = sorted({name.rsplit(".", 1)[0] for name in shapes if name.endswith((".qweight", ".qzeros"))})
    if not layers:
        raise CheckpointError(
            f"{known.file} describes GPTQ weights, but {folder} holds no qweight tensor: its weights are not quantized."
        )
    outside = [f"{name}.qweight" for name in layers if not re.search(r"\.\d+\.", name)]
    if outside:
        raise CheckpointError(
            f"{folder}: nota reads decoders whose embedding and output layer are not quantized:\n{listing(outside)}"
        )
    whole = [name for name in layers if all(f"{name}.{part}" in shapes for part in PARTS)]
    _check_shapes(known, {name: {part: shapes[f"{name}.{part}"] for part in PARTS} for name in whole})
    ordered = True
    middles = [middle_words(known.bits, less) for less in (1, 0)]
    odd: dict[str, bool] = {}  # layers whose zero points are not the middle: whether they are the other format's middle
    for file in files:
        with open_safetensors(file) as tensors:
            there = set(tensors.keys())
            for name in whole:
                if f"{name}.g_idx" in there:
                    groups = tensors.get_tensor(f"{name}.g_idx").long()
                    _check_groups(f"{file}: {name}.g_idx", groups, shapes[f"{name}.scales"][0])
                    size = known.group_size if known.group_size > 0 else len(groups)
                    ordered = ordered and torch.equal(groups, torch.arange(len(groups)) // size)
                if f"{name}.qzeros" in there:
                    zeros = tensors.get_tensor(f"{name}.qzeros")
                    own, other = (_all_are(zeros, words) for words in _in_order(middles, known.checkpoint_format))
                    if not own:
                        odd[name] = other
    if known.sym and odd:
        _refuse_zero_points(known, odd, len(whole))
    if not ordered and not known.desc_act:
        warn(f"{known.file}: desc_act is false, but g_idx puts inputs in another order; the weights' own order is used")
    return replace(known, desc_act=known.desc_act or not ordered, layers=tuple(map(without_wrapping_modules, layers)))


def _check_shapes(known: GptqSettings, shapes: Mapping[str, Mapping[str, list[int]]]) -> None:
    """Refuse bits or a group size other than what all layers agree on; one ill-shaped layer is named on loading."""
    bits, groups = set(), set()
    fits = True
    for parts in shapes.values():
        inputs, count = parts["g_idx"][0], parts["scales"][0]
        bits.add(parts["qweight"][0] * WORD / inputs)
        groups.add(inputs / count)
        fits = fits and count == (1 if known.group_size == -1 else -(-inputs // known.group_size))
    one_group = all(parts["scales"][0] == 1 for parts in shapes.values())
    stored_size = -1.0 if one_group else next(iter(groups)) if len(groups) == 1 else None
    stored_bits = next(iter(bits)) if len(bits) == 1 else None
    for key, stated, stored in (
        ("bits", known.bits, stored_bits if stored_bits != known.bits else None),
        ("group_size", known.group_size, None if fits else stored_size),
    ):
        if stored is not None:
            name = next(iter(shapes))
            raise CheckpointError(
                f"{known.file}: {key} is {stated}, but the weights are stored with {stored:g} ({name}.qweight is "
                f"{shapes[name]['qweight']}, {name}.scales is {shapes[name]['scales']}). Correct {key} in the file."
            )


def _check_groups(where: str, groups: Tensor, count: int) -> None:
    if len(groups) and not 0 <= int(groups.min()) <= int(groups.max()) < count:
        raise CheckpointError(
            f"{where} names groups {int(groups.min())} to {int(groups.max())}, but there are scales for {count}. "
            "The file is damaged: download it again, or quantize the model again."
        )


def middle_words(bits: int, less: int) -> Tensor:
    """The words of 32 zero points that are all the middle code, less one in the first format; int32 `[bits]`."""
    value = (1 << (bits - 1)) - less
    stream = sum(value << (bits * index) for index in range(WORD))
    words = [(stream >> (WORD * index)) & 0xFFFFFFFF for index in range(bits)]
    return torch.tensor([word - (1 << WORD) if word >= 1 << (WORD - 1) else word for word in words], dtype=torch.int32)


def _in_order(middles: list[Tensor], layout: str) -> list[Tensor]:
    return middles if layout == FORMATS[0] else middles[::-1]


def _all_are(zeros: Tensor, words: Tensor) -> bool:
    """Whether packed zero points `[groups, n]` repeat the words; a last part that is not whole is passed over."""
    whole = zeros.shape[1] - zeros.shape[1] % len(words) if len(set(words.tolist())) > 1 else zeros.shape[1]
    expected = words.repeat(-(-max(whole, 1) // len(words)))[:whole]
    return zeros.dtype != torch.int32 or bool((zeros[:, :whole] == expected).all())


def _refuse_zero_points(known: GptqSettings, odd: Mapping[str, bool], count: int) -> None:
    middle, first = 1 << (known.bits - 1), next(iter(odd))
    if len(odd) == count and all(odd.values()):
        other = next(layout for layout in FORMATS if layout != known.checkpoint_format)
        raise CheckpointError(
            f"{known.file}: checkpoint_format is {known.checkpoint_format!r}, but the zero points are those of {other} "
            f"({first}.qzeros; sym is true, so that each is {middle}). Set checkpoint_format to {other!r} in the file."
        )
    raise CheckpointError(
        f"{known.file}: sym is true, but zero points in {first}.qzeros are not {middle}, which they are in symmetric "
        "weights. Set sym to false in the file, or correct its checkpoint_format."
    )
