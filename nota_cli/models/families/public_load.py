"""Public models and their processors from a folder or the hub: by their type, checked, and never with remote code."""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from transformers.utils import logging as transformers_logging

from nota_cli.errors import CheckpointError, RecipeError, listing
from nota_cli.hub import local_path
from nota_cli.models.adapter import is_lora_layer
from nota_cli.models.inference_lora import merged_layer, settle_lora
from nota_cli.quantization.weight_only import quantize_linears
from nota_cli.recipe.public import PublicRecipe

cast(Any, transformers_logging).disable_progress_bar()  # it would tear nota's own apart

FACTORIES = ("AutoModelForMultimodalLM", "AutoModelForSeq2SeqLM", "AutoModelForSpeechSeq2Seq")
"""transformers' lists of models that hear, in the order in which a type is looked up."""

PACKAGES = {
    "gemma3n": "timm",
    "granite_speech": "torchaudio",
    "voxtral": "mistral_common",
}
"""What a type of model, or its processor, imports and nota does without."""
SEES = {
    "phi4_multimodal": ("Phi4MultimodalProcessor", "audio_processor"),
    "qwen2_5_omni": ("Qwen2_5OmniProcessor", "feature_extractor"),
}
"""Types whose processor wants torchvision for images: its class, and the part of it that hears."""
SPEAKS = ("talker.", "token2wav.")
"""Weights of an Omni model that give its answers a voice, which are left out."""
INSTALL = "pip install 'nota-cli[public]'"


def load_model(recipe: PublicRecipe, device: str, *, dummy: bool = False) -> Any:
    """The transformers model in evaluation mode.

    Args:
        recipe: names folder or hub id, number type and quantization.
        device: where to put it; "meta", with dummy weights, allocates nothing.
        dummy: random weights of the config's size; no weights are read.

    Raises:
        CheckpointError: it is not there, or not whole.
        RecipeError: of a type that transformers does not have, or that does not hear.
    """
    folder, spec = local_path(recipe.model.path), recipe.model
    config = _config(folder, recipe)
    factory = _factory(config, recipe)
    dtype = getattr(torch, spec.dtype)
    if dummy:
        from nota_cli.quantization.dummy import dummy_init

        with torch.device("meta"):
            model = factory.from_config(config, dtype=dtype)
        _pack(model, spec.quantization)
        return model.eval() if device == "meta" else dummy_init(model, device, dtype)
    settings: dict[str, Any] = {}
    if spec.quantization == "nf4":
        from nota_cli.quantization.nf4 import import_bitsandbytes, nf4_settings

        import_bitsandbytes()
        settings = {"quantization_config": nf4_settings(dtype), "device_map": {"": device}}
    try:
        model, report = factory.from_pretrained(
            folder, config=config, dtype=dtype, trust_remote_code=False, output_loading_info=True, **settings
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"model {folder}: {error}") from error
    if spec.adapter is not None:
        _load_adapter(model, local_path(spec.adapter))
    problems = [f"missing: {name}" for name in sorted(report["missing_keys"])]
    problems += [f"unexpected: {name}" for name in sorted(report["unexpected_keys"]) if not name.startswith(SPEAKS)]
    if problems:
        raise CheckpointError(f"model {folder}: the weights do not fit its config.json:\n{listing(problems)}")
    _settle_adapters(model, merge=spec.quantization in ("int8", "int4"))
    _pack(model, spec.quantization)
    return (model if spec.quantization == "nf4" else model.to(device)).eval()


def load_processor(recipe: PublicRecipe) -> Any:
    """The model's processor, set to pad on the left.

    Raises:
        RecipeError: there is none, or it takes no audio.
    """
    from transformers import AutoProcessor

    folder, factory = local_path(recipe.model.path), cast(Any, AutoProcessor)
    try:
        if find_spec("torchvision") is None and (blind := _without_images(folder)) is not None:
            processor = blind
        else:
            processor = factory.from_pretrained(folder, trust_remote_code=False)
    except ImportError as error:
        why = " ".join(str(error).split())
        raise RecipeError(f"model {folder}: its processor does not load: {why} Run: {INSTALL}") from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise RecipeError(f"model {folder}: its processor does not load: {error}") from error
    if not any(hasattr(processor, name) for name in ("feature_extractor", "audio_processor", "audio_tokenizer")):
        raise RecipeError(
            f"model {folder}: its processor, a {type(processor).__name__}, takes no audio; name a model that hears"
        )
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is not None:
        tokenizer.padding_side = "left"  # or a shorter clip's answer would begin behind padding
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if getattr(processor, "chat_template", None) is None:
            processor.chat_template = getattr(tokenizer, "chat_template", None)  # Phi-4's forgets it
    return processor


def _without_images(folder: Path) -> Any:
    """A processor without its parts for images; None for a type that has none."""
    import transformers

    package: Any = transformers
    config = package.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if config.model_type not in SEES:
        return None
    name, ears = SEES[config.model_type]
    whole = getattr(package, name)

    unused = SimpleNamespace(merge_size=1)  # which is read even where there is no image

    def accept(self: Any, part: str, argument: Any) -> Any:
        return None if argument is unused else whole.check_argument_for_proper_class(self, part, argument)

    hears = type(name, (whole,), {"check_argument_for_proper_class": accept})
    parts: dict[str, Any] = dict.fromkeys(whole.get_attributes(), unused)
    parts[ears] = package.AutoFeatureExtractor.from_pretrained(folder)
    parts["tokenizer"] = package.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return hears(**parts)


def _config(folder: Path, recipe: PublicRecipe) -> Any:
    from transformers import AutoConfig

    try:
        values = dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"model {folder}: its config.json cannot be read: {error}") from error
    kind = values.get("model_type")
    package = PACKAGES.get(str(kind))
    if package is not None and find_spec(package) is None:
        raise RecipeError(
            f"model {recipe.model.path} needs the package {package.replace('_', '-')}, which is not installed. "
            f"Run: {INSTALL}"
        )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        if "auto_map" in values:
            raise RecipeError(
                f"model {recipe.model.path} wants to run code that comes with its weights, which nota never does; take "
                "one that transformers has the code of"
            ) from error
        raise RecipeError(f"model {recipe.model.path}: transformers knows no model type {kind!r}: {error}") from error
    return getattr(config, "thinker_config", config)  # of an Omni model the part that hears and writes


def _factory(config: Any, recipe: PublicRecipe) -> Any:
    """transformers' list that has a model of this type.

    Raises:
        RecipeError: none of those for audio has.
    """
    import transformers

    for name in FACTORIES:
        factory: Any = getattr(transformers, name, None)
        if factory is not None and type(config) in factory._model_mapping:
            return factory
    raise RecipeError(
        f"model {recipe.model.path} is of type {config.model_type!r}, which is not among transformers' models that "
        f"hear ({', '.join(FACTORIES)})"
    )


def _load_adapter(model: Any, folder: Path) -> None:
    """Put LoRA weights from a folder of their own on a model.

    Raises:
        CheckpointError: they are not there, damaged, or another model's.
    """
    try:
        report = model.load_adapter(str(folder))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"adapter {folder}: {error}") from error
    problems = [f"missing: {name}" for name in sorted(report.missing_keys)]
    problems += [f"unexpected: {name}" for name in sorted(report.unexpected_keys)]
    if problems:
        raise CheckpointError(f"adapter {folder}: its weights do not fit the model:\n{listing(problems)}")


def _settle_adapters(model: Any, *, merge: bool) -> None:
    """A LoRA beside the weights is always on, and not peft's any more; what is to be packed takes it in."""
    layers = [(name, layer) for name, layer in model.named_modules() if is_lora_layer(layer)]
    if merge:
        for name, layer in layers:
            model.set_submodule(name, merged_layer(layer))
    if layers and (merge or settle_lora(model) == len(layers)):
        model._hf_peft_config_loaded = False  # or Granite Speech would have peft switch it on and off


def _pack(model: Any, quantization: str) -> None:
    """Hold all linear layers but the output layer in 8 or 4 bits, if that is asked for."""
    if quantization not in ("int8", "int4"):
        return
    for module in _bodies(model):
        quantize_linears(module, quantization)


def _bodies(model: Any) -> Iterator[Any]:
    """The children of a model but its output layer."""
    head = model.get_output_embeddings()
    for child in model.children():
        if child is not head:
            yield child
