"""LoRA (Hu et al. 2021) merged into the weights that it adapts, where that is exact: nothing is left to multiply.

Quantised weights are left alone: a merged weight lies off the grid, and quantising it again is another model.
"""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nota_cli.compress.gptq_format import quantization_method
from nota_cli.errors import CheckpointError, RecipeError, UsageError, listing
from nota_cli.files import atomic_folder
from nota_cli.hub import TEXT_SUFFIXES, local_path
from nota_cli.model.adapter import PEFT_PREFIX, check_ranks, read_config, read_weights
from nota_cli.model.checkpoint import WEIGHTS
from nota_cli.model.state_dicts import SHELL, without_wrapping_modules
from nota_cli.model.weights import open_safetensors, read_safetensors, refuse_non_finite, weight_files
from nota_cli.recipe.load import dump_recipe, load_recipe
from nota_cli.recipe.schema import Recipe

if TYPE_CHECKING:
    from nota_cli.model.audio_lm import AudioLM

FAN = "fan_in_fan_out"
PAIR = (".lora_A.weight", ".lora_B.weight")
INSTEAD = (
    "a merged weight lies off the grid of quantised ones, so merging is not exact. Run it with its adapters as it is, "
    "or merge the full-precision checkpoint before `nota quantize`"
)


@dataclass(frozen=True)
class MergeReport:
    """What `merge_checkpoint` did.

    Attributes:
        folder: the new checkpoint.
        layers: adapted layers.
        lost: largest share of a layer's adaptation that rounding to the stored type took away, |stored - exact| /
            |adaptation|.
    """

    folder: Path
    layers: int
    lost: float


@torch.no_grad()
def merge_lora(model: "AudioLM", *, rounding: bool = False) -> int:
    """Merge the adapters of a model that only runs from now on, where its weights stay what they would be.

    In float32 the texts are the same and the logits differ in their last digits. Half-precision weights are rounded by
    merging, so they are merged on request alone; quantised ones never are. The merged model is for running: it has
    nothing to be saved as adapters any more (`merge_checkpoint` makes a folder).

    Args:
        model: as built, not to be trained.
        rounding: merge into half-precision weights too.

    Returns:
        Layers merged; 0 if there are no adapters or the decoder is left as it was.
    """
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    spec, peft = model.recipe.decoder, model.decoder.model
    if not isinstance(peft, PeftModel) or spec.quantisation != "none" or (spec.dtype != "float32" and not rounding):
        return 0
    base = model.decoder.base
    layers = {name: module for name, module in base.named_modules() if isinstance(module, LoraLayer)}
    if not all(_mergeable(layer, base) for layer in layers.values()):
        return 0
    for name, layer in layers.items():
        plain = layer.get_base_layer()
        for adapter in layer.active_adapters:
            pair = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
            plain.weight.data = _sum(plain.weight, _delta(*pair, layer.scaling[adapter])).to(plain.weight.dtype)
        base.set_submodule(name, plain)
    if hasattr(base, "peft_config"):
        del base.peft_config
    model.decoder.model = base
    return len(layers)


def merge_as_asked(model: "AudioLM") -> int:
    """Merge the adapters of a model that only runs from now on as its recipe's `generate.merge_lora` says.

    Returns:
        Layers merged.

    Raises:
        RecipeError: it says `always`, and they cannot be merged.
    """
    wish = model.recipe.generate.merge_lora
    if wish == "never":
        return 0
    always = wish == "always" and model.recipe.lora is not None
    if always and model.recipe.decoder.quantisation != "none":
        raise RecipeError(
            f"generate.merge_lora is always, and decoder.quantisation is {model.recipe.decoder.quantisation}: {INSTEAD}"
        )
    merged = merge_lora(model, rounding=always)
    if always and not merged and hasattr(model.decoder.base, "peft_config"):
        raise RecipeError(
            "generate.merge_lora is always, and a layer of lora.targets shares its weights: set it to auto"
        )
    return merged


def prepare_to_run(model: "AudioLM") -> None:
    """Do with the adapters what the recipe asks for; those that stay lose what only training needs.

    With `generate.decoding: plain` they stay peft's. The model cannot be trained or saved any more.

    Raises:
        RecipeError: `generate.merge_lora` is `always`, and they cannot be merged.
    """
    merge_as_asked(model)
    if model.recipe.generate.decoding == "auto":
        lean_lora(model)


class LeanLora(nn.Module):
    """A layer and its one adapter, and nothing that only training needs.

    Args:
        layer: peft's.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        (adapter,) = layer.active_adapters
        self.base_layer = getattr(layer, "quant_linear_module", layer.get_base_layer())
        down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        self.lora_A, self.lora_B = _frozen(down), _frozen(up.detach() * layer.scaling[adapter])
        self.rounds_first = type(layer).__name__ == "Linear4bit"  # peft rounds what it adds to nf4 layers, then adds

    def forward(self, states: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        plain = self.base_layer(states)
        added = self.lora_B(self.lora_A(states.to(self.lora_A.weight.dtype)))
        return (plain + (added.to(plain.dtype) if self.rounds_first else added)).to(plain.dtype)


def _frozen(weight: Tensor) -> nn.Linear:
    linear = nn.Linear(*reversed(weight.shape), bias=False, device="meta")
    linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return linear


@torch.no_grad()
def lean_lora(model: "AudioLM") -> int:
    """Put plain arithmetic in the place of peft's layers: fewer kernels and less Python a token, the same numbers.

    Layers whose scale is no power of two are left, since folding it into B would round. As after `merge_lora`, the
    model is for running alone: it cannot be trained or saved any more.

    Args:
        model: as built, not to be trained.

    Returns:
        Layers replaced.
    """
    from peft.tuners.lora import LoraLayer

    base = model.decoder.base
    layers = [(name, layer) for name, layer in base.named_modules() if isinstance(layer, LoraLayer) and _plain(layer)]
    for name, layer in layers:
        base.set_submodule(name, LeanLora(layer).eval())
    return len(layers)


def merge_checkpoint(checkpoint: Path, out: Path, *, rounding: bool = False) -> MergeReport:
    """Write a checkpoint folder whose decoder holds the adapters of another one merged in; it gives the same texts.

    The decoder is stored in the new folder, also where it was a published one that the recipe named.

    Args:
        checkpoint: a folder of ours with LoRA over a full-precision decoder.
        out: where to; must not exist, or be empty.
        rounding: merge although `decoder.dtype` is half precision, which rounds the merged weights.

    Raises:
        RecipeError: there are no adapters, the decoder is quantised or in half precision, or an adapted layer shares
            its weights with another one.
        UsageError: `out` is not empty.
        CheckpointError: the checkpoint is not one, or is damaged.
    """
    recipe = read_recipe(checkpoint)
    refuse_used(out)
    _refuse_inexact(recipe, checkpoint, rounding)
    source = decoder_folder(recipe)
    if method := quantization_method(source):
        raise RecipeError(f"decoder {source} is quantised ({method}); {INSTEAD}")
    deltas = _read_deltas(checkpoint / "adapter", recipe)
    dtype = getattr(torch, recipe.decoder.dtype)
    left, lost = set(deltas), [0.0]

    def change(name: str, tensor: Tensor) -> Tensor:
        if name not in deltas:
            return tensor
        delta = _delta(*deltas[name])
        if tensor.shape != delta.shape:
            raise CheckpointError(f"{name} is {list(tensor.shape)} in {source}, its adapter {list(delta.shape)}")
        left.discard(name)
        exact = _sum(tensor.to(dtype), delta)  # what an unmerged model has in memory
        merged = exact.to(dtype)
        lost.append(float((merged.double() - exact).norm() / delta.norm().clamp(min=torch.finfo(torch.double).tiny)))
        return merged

    with atomic_folder(out) as folder:
        rewrite_decoder(source, folder / "decoder", change=change)
        if left:
            raise RecipeError(
                "lora.targets: these layers share their weights with others, or the decoder has them not, so their "
                f"adapters cannot be merged:\n{listing(sorted(left))}"
            )
        refuse_non_finite(checkpoint / WEIGHTS, read_safetensors(checkpoint / WEIGHTS))
        shutil.copyfile(checkpoint / WEIGHTS, folder / WEIGHTS)
        decoder = recipe.decoder.model_copy(update={"path": "./decoder"})
        merged = recipe.model_copy(update={"decoder": decoder, "lora": None})
        (folder / "recipe.yaml").write_text(dump_recipe(merged), encoding="utf-8")
    return MergeReport(out, len(deltas), max(lost))


def read_recipe(checkpoint: Path) -> Recipe:
    """The recipe of a checkpoint folder of ours.

    Raises:
        CheckpointError: it is no such folder.
    """
    if not (checkpoint / "recipe.yaml").is_file() or not (checkpoint / WEIGHTS).is_file():
        raise CheckpointError(
            f"checkpoint {checkpoint}: not a folder with recipe.yaml and {WEIGHTS}. "
            "Train one, or make one of a .pth with `nota checkpoint convert`."
        )
    return load_recipe(str(checkpoint))


def refuse_used(out: Path) -> None:
    """Refuse to write a checkpoint over anything.

    Raises:
        UsageError: `out` is there and holds something, or is a file.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already. Remove it, or choose another folder.")


def decoder_folder(recipe: Recipe) -> Path:
    """Where the decoder of a checkpoint folder's recipe lies.

    Raises:
        CheckpointError: the recipe has a `config` alone, so there are no weights.
    """
    if recipe.decoder.path is None:
        raise CheckpointError("decoder: the checkpoint's recipe has no decoder.path, so it holds no decoder weights")
    return local_path(recipe.decoder.path)


def rewrite_decoder(
    source: Path,
    target: Path,
    *,
    rename: Callable[[str], str | None] = lambda name: name,
    change: Callable[[str, Tensor], Tensor] = lambda name, tensor: tensor,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Copy a Hugging Face folder of safetensors, one file in memory at a time.

    Args:
        source: with its config and, usually, its tokenizer.
        target: a folder that is not there yet.
        rename: a tensor's new name, or None to leave it out.
        change: a tensor, by its old name, to what is stored.
        config: takes the place of config.json.

    Raises:
        CheckpointError: the weights are no safetensors, missing or damaged.
    """
    files = weight_files(source)
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.is_file() and file.suffix in TEXT_SUFFIXES and not file.name.endswith(".index.json"):
            shutil.copyfile(file, target / file.name)
    if config is not None:
        (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    places: dict[str, str] = {}
    size = 0
    for file in files:
        with open_safetensors(file) as content:
            bare = {name: without_wrapping_modules(name) for name in content.keys()}  # noqa: SIM118  (it is no dict)
            names = {name: rename(plain) for name, plain in bare.items()}
            tensors = {name: content.get_tensor(name) for name, new in names.items() if new is not None}
            metadata = content.metadata()
        refuse_non_finite(file, tensors)
        kept = {str(names[name]): change(bare[name], tensor) for name, tensor in tensors.items()}
        if kept:
            save_file(kept, target / file.name, metadata)
        places |= dict.fromkeys(kept, file.name)
        size += sum(tensor.nbytes for tensor in kept.values())
    if (source / "model.safetensors.index.json").is_file():
        index = {"metadata": {"total_size": size}, "weight_map": places}
        (target / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _refuse_inexact(recipe: Recipe, checkpoint: Path, rounding: bool) -> None:
    spec = recipe.decoder
    if recipe.lora is None:
        raise RecipeError(f"checkpoint {checkpoint}: its recipe has no `lora`, so there is nothing to merge")
    if spec.quantisation != "none":
        raise RecipeError(f"decoder.quantisation is {spec.quantisation}: {INSTEAD}")
    if spec.dtype != "float32" and not rounding:
        raise RecipeError(
            f"decoder.dtype is {spec.dtype}, to which merged weights would be rounded. Ask for that rounding, or set "
            "decoder.dtype to float32 in the checkpoint's recipe.yaml"
        )


def _read_deltas(folder: Path, recipe: Recipe) -> dict[str, tuple[Tensor, Tensor, float]]:
    """A, B and scale of each adapted layer by the name of the weight; the adapter's own config tells the scale."""
    config = read_config(folder)
    for key, on in (("use_dora", config and config.dora), ("fan_in_fan_out", config and config.where.get(FAN))):
        if config is not None and on:
            raise RecipeError(f"{config.file}: {key} is true, which cannot be merged here: merge the adapter with PEFT")
    file, stored = read_weights(folder)
    tensors = {SHELL.sub("", name).replace(".default.weight", ".weight"): value for name, value in stored.items()}
    if config is not None:
        check_ranks(config, file, tensors)
    stems = {name.removesuffix(suffix) for name in tensors for suffix in PAIR if name.endswith(suffix)}
    expected = {stem + suffix for stem in stems for suffix in PAIR}
    wrong = sorted(expected ^ set(tensors))
    if wrong or not stems or recipe.lora is None:
        raise CheckpointError(f"{file}: not pairs of LoRA matrices for linear layers:\n{listing(wrong)}")
    recipe_scale = recipe.lora.alpha / recipe.lora.rank
    deltas = {}
    for stem in stems:
        layer = stem.removeprefix(PEFT_PREFIX)
        scale = recipe_scale if config is None else config.of(layer)[1]
        deltas[f"{layer}.weight"] = tensors[stem + PAIR[0]], tensors[stem + PAIR[1]], scale
    return deltas


def _delta(down: Tensor, up: Tensor, scale: float) -> Tensor:
    """What an adapter adds to a weight, `[out, in]`; in double precision, so that it is rounded once."""
    return scale * (up.double() @ down.double())


def _sum(weight: Tensor, delta: Tensor) -> Tensor:
    return weight.double() + delta


def _plain(layer: Any) -> bool:
    """Whether it computes base(x) + (x A^T) B^T scale with one adapter and a scale that costs no rounding."""
    if type(layer).__name__ not in ("Linear", "GPTQLoraLinear", "Linear4bit") or len(layer.active_adapters) != 1:
        return False
    (adapter,) = layer.active_adapters
    if layer.disable_adapters or layer.merged or adapter not in layer.lora_A or adapter in layer.lora_variant:
        return False
    return layer.lora_B[adapter].bias is None and math.frexp(layer.scaling[adapter])[0] == 0.5


def _mergeable(layer: Any, base: nn.Module) -> bool:
    """Whether it adapts a plain linear layer, whose weight no other layer uses."""
    plain = layer.get_base_layer()
    if type(plain) is not nn.Linear or set(layer.lora_A) != set(layer.lora_B) or not layer.lora_A:
        return False
    if layer.lora_variant or any(up.bias is not None for up in layer.lora_B.values()):
        return False  # DoRA and its like are more than a product of two matrices
    owners = [module for module in base.modules() if module._parameters.get("weight") is plain.weight]
    return owners == [plain]
