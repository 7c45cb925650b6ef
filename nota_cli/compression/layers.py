"""Dropping encoder and decoder layers from a checkpoint folder, and choosing which ones.

What is left usually needs a short run of training to heal. Decoders, quantized ones too, are rewritten file by file
and never built.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig

from nota_cli.compression.folders import decoder_folder, read_recipe, refuse_used, rewrite_decoder, write_json
from nota_cli.errors import CheckpointError, UsageError, listing
from nota_cli.files import atomic_folder, copy_folder
from nota_cli.models.adapter import CONFIG as ADAPTER_CONFIG
from nota_cli.models.adapter import WEIGHTS as ADAPTER_WEIGHTS
from nota_cli.models.adapter import layer_name, read_config, read_weights
from nota_cli.models.checkpoint import WEIGHTS
from nota_cli.models.encoders.base import encoder_entry
from nota_cli.models.encoders.build import build_encoder
from nota_cli.quantization.gptq_format import OLD_CONFIG, read_settings
from nota_cli.recipe.load import dump_recipe
from nota_cli.recipe.schema import Recipe
from nota_cli.weights.files import read_json, read_safetensors, refuse_non_finite, weight_files
from nota_cli.weights.state_dicts import SHELL, plain_names

if TYPE_CHECKING:
    from nota_cli.features.batch import Features
    from nota_cli.models.families.salmonn import Salmonn
    from nota_cli.prompts import Query

STRATEGIES = ("even", "last", "similarity")
PARTS = ("speech_encoder", "audio_encoder", "decoder")
DECODER_STACK = "model.layers"
ADAPTER_STACK = "base_model.model.model.layers"  # PEFT's name for the same
# Settings of a decoder's config.json with one value a layer.
PER_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers", "size_experts", "score_scale_factor")


@dataclass(frozen=True)
class PartReport:
    """What became of one part: layers there were, places of those kept, bytes of its weights before and after."""

    part: str
    total: int
    kept: tuple[int, ...]
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class PruneReport:
    """The folder that `prune_layers` wrote, and what it dropped."""

    folder: Path
    parts: tuple[PartReport, ...]


def choose(
    total: int,
    keep: int,
    strategy: str = "even",
    scores: Sequence[float] | Callable[[], Sequence[float]] | None = None,
) -> list[int]:
    """Places of the layers to keep, in order.

    Args:
        total: layers there are.
        keep: how many of them shall be left.
        strategy: `even` keeps evenly spaced ones, the first and the last among them (the first, if only one is kept);
            `last` drops the last ones; `similarity` drops those that change their input least (ShortGPT, Men et al.
            2024).
        scores: for `similarity`, each layer's influence (`block_influence`), or a function that finds it out.

    Raises:
        UsageError: no such strategy, more layers than there are or none, or not one score for each layer.
    """
    if strategy not in STRATEGIES:
        raise UsageError(f"no strategy {strategy!r} to choose layers by; there are: {', '.join(STRATEGIES)}")
    if not 1 <= keep <= total:
        raise UsageError(f"cannot keep {keep} layers of {total}; give a number from 1 to {total}")
    if strategy == "last":
        return list(range(keep))
    if strategy == "even":
        gaps = max(keep - 1, 1)
        return [(2 * index * (total - 1) + gaps) // (2 * gaps) for index in range(keep)]  # rounded, halves up
    values = list(scores() if callable(scores) else scores or [])
    if len(values) != total:
        raise UsageError(f"choosing by similarity needs a score for each of {total} layers, got {len(values)}")
    return sorted(sorted(range(total), key=lambda index: -values[index])[:keep])


def layer_counts(checkpoint: Path) -> dict[str, int]:
    """Layers of each part of a checkpoint folder that has layers to drop, by `PARTS`.

    Raises:
        CheckpointError, RecipeError: no checkpoint folder there, or weights that it names are missing or damaged.
    """
    recipe = read_recipe(checkpoint)
    counts = {part: len(_layers(recipe, part, encoder)) for part, encoder in _encoders(recipe, PARTS).items()}
    return {**counts, "decoder": _decoder_config(decoder_folder(recipe))["num_hidden_layers"]}


def prune_layers(checkpoint: Path, out: Path, keep: Mapping[str, Sequence[int]]) -> PruneReport:
    """Write a checkpoint folder with some layers of another one.

    A part that loses layers is stored in the new folder, even where its weights were published ones that the recipe
    named by path or hub id: an encoder as `config` and weights, a decoder as `decoder/`. What is the training's own
    (`metrics.json`, `trainer/`) is left behind.

    BEATs' residuals are weighted by its number of layers (deep-norm); its branches are rescaled, so that a layer that
    stays computes what it did.

    Args:
        checkpoint: a folder of ours.
        out: where to; must not exist, or be empty.
        keep: for each part that loses layers (`PARTS`), the places of those to keep, counted from 0.

    Raises:
        UsageError: parts or layers that are not there, or `out` is not empty.
        CheckpointError, RecipeError: the checkpoint is not one, is damaged, or is none that layers can be dropped from.
    """
    recipe = read_recipe(checkpoint)
    refuse_used(out)
    there = [part for part in PARTS if part != "audio_encoder" or recipe.audio_encoder.kind != "none"]
    unknown = [part for part in keep if part not in there]
    if unknown or not keep:
        raise UsageError(f"no part {', '.join(unknown) or 'given'} to drop layers from; there are: {', '.join(there)}")
    state = plain_names(read_safetensors(checkpoint / WEIGHTS), checkpoint / WEIGHTS, ())
    refuse_non_finite(checkpoint / WEIGHTS, state)
    sections: dict[str, Any] = {}
    parts: list[PartReport] = []
    for part, encoder in _encoders(recipe, keep).items():
        total = len(_layers(recipe, part, encoder))
        indices = _checked(part, keep[part], total)
        before, after, config = _prune_encoder(recipe, part, encoder, state, indices)
        state = {name: value for name, value in state.items() if not name.startswith(f"{part}.")} | after
        spec = getattr(recipe, part)
        heads = {"heads": None} if part == "audio_encoder" else {}  # they are in the config now
        sections[part] = spec.model_copy(update={"path": None, "config": config, **heads})
        parts.append(PartReport(part, total, indices, before, sum(value.nbytes for value in after.values())))
    with atomic_folder(out) as folder:
        save_file({name: value.contiguous() for name, value in state.items()}, folder / WEIGHTS)
        adapter = checkpoint / "adapter"
        if "decoder" in keep:
            source = decoder_folder(recipe)
            indices = _checked("decoder", keep["decoder"], _decoder_config(source)["num_hidden_layers"])
            parts.append(_prune_decoder(source, folder / "decoder", indices))
            if recipe.lora is not None or adapter.is_dir():
                _prune_adapter(adapter, folder / "adapter", indices)
            sections["decoder"] = recipe.decoder.model_copy(update={"path": "./decoder"})
        else:
            if adapter.is_dir():
                copy_folder(adapter, folder / "adapter")
            if (decoder_folder(recipe).parent / WEIGHTS).is_file():  # made by nota, not published
                copy_folder(decoder_folder(recipe), folder / "decoder")
                sections["decoder"] = recipe.decoder.model_copy(update={"path": "./decoder"})
        (folder / "recipe.yaml").write_text(dump_recipe(recipe.model_copy(update=sections)), encoding="utf-8")
    return PruneReport(out, tuple(parts))


@torch.inference_mode()
def block_influence(model: "Salmonn", features: "Features", queries: "list[Query]") -> dict[str, list[float]]:
    """How much each layer of each part turns its input: 1 - cosine of input and output, mean over real positions.

    Block influence of Men et al. (2024), "ShortGPT". The decoder sees prompts and audio, no answers.

    Args:
        model: in evaluation mode.
        features: of a few clips.
        queries: what is asked of each.
    """
    stacks: dict[str, Any] = {
        "speech_encoder": model.speech_encoder.get_submodule(encoder_entry(model.recipe.speech_encoder.kind).layers)
    }
    if model.audio_encoder is not None:
        entry = encoder_entry(model.recipe.audio_encoder.kind)
        stacks["audio_encoder"] = model.audio_encoder.get_submodule(entry.layers)
    stacks["decoder"] = model.decoder.base.base_model.get_submodule("layers")
    turned: dict[str, list[float]] = {part: [] for part in stacks}
    decoder_mask: list[Tensor] = []

    def note(part: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        states = args[0] if args else kwargs["hidden_states"]
        after = output[0] if isinstance(output, tuple) else output
        mask = decoder_mask[0] if part == "decoder" else args[-1]  # encoders give their layers the mask last, or None
        cosine = torch.cosine_similarity(states.double(), after.double(), dim=-1)
        real = cosine if mask is None else cosine[mask.reshape(cosine.shape).bool()]
        turned[part].append(1.0 - float(real.mean()))

    handles = [
        layer.register_forward_hook(
            lambda _, args, kwargs, output, part=part: note(part, args, kwargs, output), with_kwargs=True
        )
        for part, stack in stacks.items()
        for layer in stack
    ]
    try:
        embeds, mask = model.prompt_embeds(features, queries)
        decoder_mask.append(mask)
        model.decoder.base.base_model(inputs_embeds=embeds, attention_mask=mask, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return turned


def _encoders(recipe: Recipe, parts: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """The encoders among `parts`; those whose weights are the checkpoint's own as mere shapes."""
    encoders: dict[str, Any] = {}
    for part in ("speech_encoder", "audio_encoder"):
        spec: Any = getattr(recipe, part)
        if part in parts and spec.kind != "none":
            with torch.device("meta") if spec.config is not None else nullcontext():
                encoders[part] = build_encoder(spec, "cpu", dummy=False, pack=False)
    return encoders


def _layers(recipe: Recipe, part: str, encoder: Any) -> nn.ModuleList:
    layers: nn.ModuleList = encoder.get_submodule(encoder_entry(getattr(recipe, part).kind).layers)
    return layers


def _checked(part: str, keep: Sequence[int], total: int) -> tuple[int, ...]:
    indices = tuple(sorted(set(keep)))
    wrong = [str(index) for index in keep if not 0 <= index < total]
    if wrong or not indices or len(indices) != len(keep):
        problem = f"layer {', '.join(wrong)}" if wrong else "no layer, or one twice"
        raise UsageError(f"{part}: cannot keep {problem}; it has {total} layers, 0 to {total - 1}")
    return indices


def _prune_encoder(
    recipe: Recipe, part: str, encoder: Any, state: Mapping[str, Tensor], keep: tuple[int, ...]
) -> tuple[int, dict[str, Tensor], dict[str, Any]]:
    """Bytes of the encoder as it was, its new tensors by their names in the checkpoint, and its new `config`."""
    spec = getattr(recipe, part)
    entry = encoder_entry(spec.kind)
    own = {f"{part}.{name}": tensor for name, tensor in encoder.state_dict().items()}
    # The checkpoint's own tensors come before the published ones.
    tensors = {name: state.get(name, tensor) for name, tensor in own.items()}
    missing = [f"missing: {name}" for name, tensor in tensors.items() if tensor.is_meta]
    if missing:
        raise CheckpointError(f"checkpoint: {WEIGHTS} does not hold the whole {part}:\n{listing(missing)}")
    total = len(_layers(recipe, part, encoder))
    branches = entry.residual_scales(encoder)
    scale = (len(keep) / total) ** 0.25
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        shared = entry.shared is not None and name.endswith(entry.shared)
        new = name if shared else _renumber(name, f"{part}.{entry.layers}", keep)
        if new is not None:
            scaled = len(keep) < total and any(piece in name for piece in branches)
            kept[new] = (tensor.float() * scale).to(tensor.dtype) if scaled else tensor
    config = dict(spec.config) if spec.config is not None else entry.config_values(encoder)
    return sum(tensor.nbytes for tensor in tensors.values()), kept, {**config, entry.layer_count: len(keep)}


def _decoder_config(folder: Path) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    if not isinstance(config.get("num_hidden_layers"), int):
        raise CheckpointError(f"{folder / 'config.json'}: no num_hidden_layers, so there is no telling its layers")
    return config


def _prune_decoder(source: Path, target: Path, keep: tuple[int, ...]) -> PartReport:
    read_settings(source)  # refuses what cannot be run
    config = _decoder_config(source)
    total = config["num_hidden_layers"]
    config["num_hidden_layers"] = len(keep)
    full = AutoConfig.from_pretrained(source, trust_remote_code=False)
    for name in PER_LAYER:  # older files leave it to the layer's number which kind it is
        values = getattr(full, name, None)
        if isinstance(values, list) and len(values) == total:
            config[name] = [values[index] for index in keep]
    if "quantization_config" in config:
        config["quantization_config"] = _renumber_settings(config["quantization_config"], keep)
    seen: set[int] = set()

    def rename(name: str) -> str | None:
        index = _layer_index(name, DECODER_STACK)
        if index is not None:
            seen.add(index)
        return _renumber(name, DECODER_STACK, keep)

    rewrite_decoder(source, target, rename=rename, config=config)
    if (source / OLD_CONFIG).is_file():
        settings = _renumber_settings(read_json(source / OLD_CONFIG), keep)
        write_json(target / OLD_CONFIG, settings)
    if seen != set(range(total)):
        raise CheckpointError(
            f"decoder {source}: {total} layers by its config.json, but weights of {len(seen)} under {DECODER_STACK}"
        )
    before, after = (sum(file.stat().st_size for file in weight_files(folder)) for folder in (source, target))
    return PartReport("decoder", total, keep, before, after)


def _prune_adapter(source: Path, target: Path, keep: tuple[int, ...]) -> None:
    config = read_config(source)
    file, stored = read_weights(source)
    tensors = {SHELL.sub("", name): tensor for name, tensor in stored.items()}
    copy_folder(source, target)
    renamed = {name: _renumber(name, ADAPTER_STACK, keep) for name in tensors}
    kept = {new: tensors[name] for name, new in renamed.items() if new is not None}
    (target / file.name).unlink()
    save_file(kept, target / ADAPTER_WEIGHTS[0], {"format": "pt"})
    if config is None or not config.names_layers:
        return
    # Patterns may name layers by number: each layer that is left gets its own values under its new name.
    values = {**read_json(source / ADAPTER_CONFIG), "rank_pattern": {}, "alpha_pattern": {}}
    values |= dict.fromkeys(("exclude_modules", "layers_to_transform", "layers_pattern"))
    layers = {layer_name(name): layer_name(new) for name, new in renamed.items() if new is not None}
    for layer, new in layers.items():
        if layer is not None and new is not None:
            values["rank_pattern"][new], values["alpha_pattern"][new] = config.rank_and_alpha(layer)
    values["target_modules"] = sorted(values["rank_pattern"])
    write_json(target / ADAPTER_CONFIG, values)


def _layer_index(name: str, stack: str) -> int | None:
    """Which layer of `stack` a tensor belongs to."""
    number = name.removeprefix(f"{stack}.").split(".")[0]
    return int(number) if name.startswith(f"{stack}.") and number.isdigit() else None


def _renumber(name: str, stack: str, keep: tuple[int, ...]) -> str | None:
    """A tensor's name once only the layers `keep` of `stack` are left; None if it belongs to a dropped one."""
    index = _layer_index(name, stack)
    if index is None:
        return name
    if index not in keep:
        return None
    return f"{stack}.{keep.index(index)}" + name[len(f"{stack}.{index}") :]


def _renumber_settings(node: Any, keep: tuple[int, ...]) -> Any:
    """Lists of layers by name, such as those that a quantized folder left as they were."""
    if isinstance(node, dict):
        return {key: _renumber_settings(value, keep) for key, value in node.items()}
    if not isinstance(node, list):
        return node
    named = [_renumber(item, DECODER_STACK, keep) if isinstance(item, str) else item for item in node]
    return [item for item in named if item is not None]
