"""LoRA adapters in PEFT's format: what their own config says is used, or refused; the recipe does not overrule it."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from nota_cli.console import warn
from nota_cli.errors import CheckpointError, listing
from nota_cli.recipe.schema import Lora, Recipe
from nota_cli.weights.files import read_json, read_safetensors, read_torch_file, refuse_non_finite
from nota_cli.weights.state_dicts import example_names

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
PEFT_PREFIX = "base_model.model."
USED = ("r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern")
# Which layers are adapted; handed to PEFT as they are.
WHERE = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out")
# What changes nothing once the weights are loaded.
HARMLESS = (
    ("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision")
    + ("inference_mode", "lora_dropout", "runtime_config", "megatron_core", "qalora_group_size")
    + ("init_lora_weights", "loftq_config", "eva_config", "ensure_weight_tying", "bias")
)
PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal")  # the others change the base weights too


@dataclass(frozen=True)
class AdapterConfig:
    """What an `adapter_config.json` says.

    Attributes:
        file: where it says so.
        rank: of layers that `rank_pattern` does not name.
        alpha: the same of `alpha_pattern`; a layer's scale is alpha / rank, with `rslora` alpha / sqrt(rank).
        rslora: see there (Kalajdzievski 2023).
        dora: magnitudes are stored beside the directions (Liu et al. 2024).
        rank_pattern: layer, or the end of its name, or a pattern: its rank.
        alpha_pattern: the same for alpha.
        where: PEFT's arguments that say which layers are adapted.
        base: the model that it was trained on, as named there.
    """

    file: Path
    rank: int
    alpha: float
    rslora: bool = False
    dora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    where: Mapping[str, Any] = field(default_factory=dict)
    base: str | None = None

    @property
    def names_layers(self) -> bool:
        """Whether it may name layers by number, which changes where layers are dropped."""
        targets = self.where.get("target_modules", [])
        numbered = isinstance(targets, str) or any(re.search(r"\d", target) for target in targets)
        return bool(self.rank_pattern or self.alpha_pattern or set(self.where) - {"target_modules"} or numbered)

    def of(self, layer: str) -> tuple[int, float]:
        """Rank and scale of a layer, by its name in the decoder without PEFT's prefix."""
        rank, alpha = self.rank_and_alpha(layer)
        return rank, alpha / (math.sqrt(rank) if self.rslora else rank)

    def rank_and_alpha(self, layer: str) -> tuple[int, float]:
        """Rank and alpha of a layer, by its name in the decoder without PEFT's prefix."""
        rank = self.rank_pattern.get(_key(self.rank_pattern, layer), self.rank)
        return rank, self.alpha_pattern.get(_key(self.alpha_pattern, layer), self.alpha)

    def for_peft(self) -> dict[str, Any]:
        """The arguments of PEFT's `LoraConfig`."""
        return {
            "r": self.rank,
            "lora_alpha": self.alpha,
            "use_rslora": self.rslora,
            "use_dora": self.dora,
            "rank_pattern": dict(self.rank_pattern),
            "alpha_pattern": dict(self.alpha_pattern),
            **self.where,
        }


def read_config(folder: Path) -> AdapterConfig | None:
    """The config of an adapter folder; None if there is none, as the recipe says all then.

    Raises:
        CheckpointError: it is no JSON, a value is out of range, or it describes what nota cannot run; file and key are
            named.
    """
    file = folder / CONFIG
    if not file.is_file():
        return None
    values = read_json(file)

    def refuse(key: str, reason: str) -> None:
        raise CheckpointError(f"{file}: {key} is {values.get(key)!r}, {reason}.")

    if str(values.get("peft_type", "LORA")).upper() != "LORA":
        refuse("peft_type", "but nota runs LoRA adapters only")
    if values.get("bias", "none") not in ("none", None):
        refuse("bias", "but nota loads adapters without biases only: train it with bias 'none'")
    if values.get("init_lora_weights") not in PLAIN_INITS:
        refuse("init_lora_weights", "which changes the base weights too: convert it to a plain LoRA with PEFT")
    if values.get("modules_to_save"):
        refuse("modules_to_save", "but nota loads LoRA weights only: merge the adapter into the decoder with PEFT")
    for key, value in values.items():
        if value and key not in (*USED, *WHERE, *HARMLESS, "modules_to_save"):
            refuse(key, "which changes what the adapter computes and is not supported: merge it with PEFT")
    if type(values.get("r")) is not int or values["r"] < 1:
        refuse("r", "not a rank")
    if type(values.get("lora_alpha")) not in (int, float) or not values["lora_alpha"] > 0:
        refuse("lora_alpha", "not a positive number")
    for key, kinds in (("rank_pattern", (int,)), ("alpha_pattern", (int, float))):
        pattern = values.get(key) or {}
        if not isinstance(pattern, dict) or not all(type(value) in kinds and value > 0 for value in pattern.values()):
            refuse(key, "not names of layers with positive numbers")
    return AdapterConfig(
        file,
        values["r"],
        values["lora_alpha"],
        bool(values.get("use_rslora")),
        bool(values.get("use_dora")),
        values.get("rank_pattern") or {},
        values.get("alpha_pattern") or {},
        {key: values[key] for key in WHERE if values.get(key)},
        values.get("base_model_name_or_path"),
    )


def adopt(recipe: Recipe, config: AdapterConfig) -> Recipe:
    """The recipe with the adapter's own rank, alpha and targets; what differs is mentioned on stderr."""
    lora = recipe.lora or Lora()
    targets = config.where.get("target_modules")
    differences = differing(config, lora)
    if differences:
        warn(f"{config.file} says otherwise than the recipe and is used: {'; '.join(differences)}")
    base = config.base and Path(config.base).name
    # A decoder in the checkpoint's own folder was made from the base: pruned, quantized, trimmed.
    own = recipe.decoder.path is None or Path(recipe.decoder.path).name == "decoder"
    if base and base != "decoder" and not own and base.lower() != Path(str(recipe.decoder.path)).name.lower():
        warn(
            f"{config.file}: base_model_name_or_path is {config.base}, the recipe's decoder {recipe.decoder.path}. "
            "An adapter gives sense on the decoder that it was trained on only."
        )
    changes: dict[str, Any] = {"rank": config.rank}
    if config.alpha == int(config.alpha):
        changes["alpha"] = int(config.alpha)
    if isinstance(targets, list) and set(targets) != set(lora.targets):
        changes["targets"] = sorted(targets)
    return recipe.model_copy(update={"lora": lora.model_copy(update=changes)})


def differing(config: AdapterConfig, lora: Lora) -> list[str]:
    """What an adapter's config says otherwise than a recipe's `lora`."""
    pairs = [("r", config.rank, "lora.rank", lora.rank), ("lora_alpha", config.alpha, "lora.alpha", lora.alpha)]
    differences = [f"{key} {own:g}, {theirs} {other}" for key, own, theirs, other in pairs if own != other]
    differences += [f"{key} true" for key, on in (("use_rslora", config.rslora), ("use_dora", config.dora)) if on]
    patterns = (("rank_pattern", config.rank_pattern), ("alpha_pattern", config.alpha_pattern))
    differences += [f"{key} {dict(pattern)}" for key, pattern in patterns if pattern]
    targets = config.where.get("target_modules")
    if targets is not None and (not isinstance(targets, list) or set(targets) != set(lora.targets)):
        named = ", ".join(sorted(targets)) if isinstance(targets, list) else targets
        differences.append(f"target_modules {named}, lora.targets {', '.join(sorted(lora.targets))}")
    others = ("exclude_modules", "layers_to_transform", "layers_pattern")
    return differences + [f"{key} {config.where[key]}" for key in others if key in config.where]


def read_weights(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """The file with an adapter's weights, and these by PEFT's names, all finite.

    Raises:
        CheckpointError: there is none, or it is damaged or a Git LFS pointer; or weights are NaN or infinite, or of
            another rank than the config says.
    """
    file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), folder / WEIGHTS[0])
    tensors = read_safetensors(file) if file.suffix == ".safetensors" else read_torch_file(file)
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise CheckpointError(f"{file}: not a dictionary of an adapter's weights")
    refuse_non_finite(file, tensors)
    return file, tensors


def check_ranks(config: AdapterConfig, file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Hold the ranks that a config states against the weights.

    Args:
        config: of the adapter.
        file: with its weights, for the message.
        tensors: by PEFT's names.

    Raises:
        CheckpointError: they differ; the layers are named.
    """
    wrong = []
    for name, tensor in tensors.items():
        layer = layer_name(name)
        if layer is not None and ".lora_A" in name and tensor.shape[0] != config.of(layer)[0]:
            wrong.append(f"{layer}: rank {config.of(layer)[0]} by the config, {tensor.shape[0]} in the weights")
    if wrong:
        key = "rank_pattern" if config.rank_pattern else "r"
        raise CheckpointError(f"{config.file}: {key} contradicts {file.name}:\n{listing(wrong)}")


def layer_name(name: str) -> str | None:
    """The layer that a LoRA weight belongs to, without PEFT's prefix; None for other weights."""
    match = re.fullmatch(r"(.*)\.lora_(?:[AB]|magnitude_vector)(?:\.default)?(?:\.weight)?", name)
    return None if match is None else match[1].removeprefix(PEFT_PREFIX)


def own_name(name: str) -> str:
    """A weight's name in `AudioLM`, from its name in an adapter's file."""
    name = re.sub(r"\.(lora_[AB]|lora_magnitude_vector)(\.weight)?$", r".\1.default.weight", name)
    return f"decoder.model.{name}"


def refuse_other_scales(config: AdapterConfig, model: Any) -> None:
    """Refuse to load an adapter into layers that scale it otherwise than it was trained.

    Args:
        config: of the adapter.
        model: PEFT's.

    Raises:
        CheckpointError: rank, scale or kind of some layer differ; they are named with the keys.
    """
    wrong = []
    for name, layer in model.named_modules():
        if not is_lora_layer(layer) or "default" not in layer.lora_A:
            continue
        own = layer.r["default"], layer.scaling["default"], "default" in layer.lora_variant
        theirs = (*config.of(name.removeprefix(PEFT_PREFIX)), config.dora)
        if own[0] != theirs[0] or not math.isclose(own[1], theirs[1], rel_tol=1e-6) or own[2] != theirs[2]:
            wrong.append(name.removeprefix(PEFT_PREFIX))
    if wrong:
        raise CheckpointError(
            f"{config.file}: r {config.rank}, lora_alpha {config.alpha:g}, use_rslora {config.rslora}, use_dora "
            f"{config.dora} scale {example_names(wrong)} otherwise than the recipe's `lora`, so that the same weights "
            "would be another model. Set lora.rank and lora.alpha to the adapter's."
        )


def is_lora_layer(module: Any) -> bool:
    """Whether a module is a layer with adapters: PEFT's, whose import takes seconds, or `inference_lora`'s own."""
    return hasattr(module, "lora_A") and hasattr(module, "get_base_layer")


def _key(pattern: Mapping[str, Any], layer: str) -> str:
    """The key of a pattern that PEFT takes for a layer: the first that its name is or ends with."""
    return next((key for key in pattern if re.match(rf"(.*\.)?({key})$", layer)), layer)
