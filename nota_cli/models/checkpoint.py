"""Checkpoints: our folder format, the teams' `.pth` files, and what is missing or unexpected in either.

A folder holds `recipe.yaml`, `model.safetensors` (everything outside the decoder that cannot be had from the recipe's
own paths), `adapter/` (LoRA, PEFT's format), `decoder/` (where the decoder itself was trained or quantized here) and
`metrics.json`.
"""

import math
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nota_cli.console import say, warn
from nota_cli.errors import CheckpointError, NotaError, UsageError, listing
from nota_cli.files import atomic_folder, atomic_path, copy_folder, write_text
from nota_cli.models import adapter
from nota_cli.models.vocabulary import MAPPING
from nota_cli.recipe.load import dump_recipe
from nota_cli.recipe.schema import Recipe
from nota_cli.recipe.section import Section
from nota_cli.recipe.training import Data
from nota_cli.weights.files import read_safetensors, read_torch_file, refuse_non_finite
from nota_cli.weights.fit import shape_line
from nota_cli.weights.state_dicts import example_names, find_weights, plain_names

if TYPE_CHECKING:
    from nota_cli.models.families.salmonn import Salmonn

WEIGHTS = "model.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
Part = TypeVar("Part", bound=Section)


@dataclass(frozen=True)
class KeyReport:
    """How the names in a checkpoint and the weights that the model wants from one agree."""

    matched: list[str]
    missing: list[str]
    unexpected: list[str]

    def __str__(self) -> str:
        return f"{len(self.matched)} matched, {len(self.missing)} missing, {len(self.unexpected)} unexpected"


# What a team's `.pth` says about its own training (their config's `model` section), and where a recipe has it.
STATED = {
    "lora_rank": ("lora", "rank"),
    "lora_alpha": ("lora", "alpha"),
    "num_speech_query_token": ("connector", "queries"),
    "second_per_window": ("connector", "window_seconds"),
    "second_stride": ("connector", "stride_seconds"),
}
FREQUENCIES = ".rotary_emb.inv_freq"
TABLES = (FREQUENCIES, ".embeddings.position_ids")
# The organisers' and the teams' names, and ours.
RENAMES = [
    (re.compile(r"^speech_gemma_proj\."), "connector.speech_llama_proj."),
    (
        re.compile(r"^(speech_Qformer\.|speech_query_tokens$|ln_speech\.|ln_audio\.|speech_llama_proj\.)"),
        r"connector.\1",
    ),
    (re.compile(r"^(llama_model|gemma_model|qwen_model|llm_model)\."), "decoder.model."),
    (re.compile(r"^beats\."), "audio_encoder."),
    (re.compile(r"^multi_modal_projector\."), "connector."),  # Ultravox's, and the next one
    (re.compile(r"^audio_tower\."), "speech_encoder."),
]


def own_state(model: "Salmonn") -> dict[str, Tensor]:
    """The tensors of `model.safetensors`: parts outside the decoder that no path of the recipe provides."""
    recipe = model.recipe
    provided = tuple(
        f"{part}."
        for part, spec in (("speech_encoder", recipe.speech_encoder), ("audio_encoder", recipe.audio_encoder))
        if spec.path is not None and not spec.train
    )
    skipped = ("decoder.", *provided)
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(skipped)}


def makes_decoder(recipe: Recipe) -> bool:
    """Whether a checkpoint of the recipe holds the decoder itself, as no path of the recipe has it as it is."""
    return recipe.decoder.train or recipe.decoder.config is not None


def saved_names(model: "Salmonn") -> set[str]:
    """Names of all weights that `save_checkpoint` writes."""
    names = {name for name in model.state_dict() if "lora_" in name or makes_decoder(model.recipe)}
    return set(own_state(model)) | {name for name in names if name.startswith("decoder.")}


def save_checkpoint(model: "Salmonn", folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write the folder that `load_checkpoint` and `Salmonn.from_pretrained` read, `recipe.yaml` last.

    Args:
        model: what is saved.
        folder: where; files of an earlier checkpoint there are replaced.
        dtype: number type of what was trained outside the decoder, and of the adapters. Half precision halves the file.

    Raises:
        UsageError: the folder cannot be written to.
        NotaError: there is no room for it.
    """
    try:
        _write_checkpoint(model, folder, dtype)
    except SafetensorError as error:
        raise NotaError(
            f"cannot write the checkpoint {folder}: {error}. Make room there. What a training run has saved of its "
            "state is whole: --resume goes on."
        ) from error


def _write_checkpoint(model: "Salmonn", folder: Path, dtype: torch.dtype) -> None:
    recipe = _self_contained(model, folder)
    with atomic_path(folder / WEIGHTS) as part:
        save_file({name: _stored(tensor, dtype) for name, tensor in own_state(model).items()}, part)
    if recipe.lora is not None:
        peft = model.decoder.model
        if not hasattr(peft, "peft_config"):
            raise UsageError("the adapters are merged into the decoder already; save the model before merging them")
        peft.peft_config["default"].base_model_name_or_path = recipe.decoder.path  # else where it lay on this machine
        with atomic_folder(folder / "adapter") as part:
            peft.save_pretrained(part, save_embedding_layers=False)
            if dtype != torch.float32:
                file = part / "adapter_model.safetensors"
                save_file({name: _stored(tensor, dtype) for name, tensor in load_file(file).items()}, file)
            (part / "README.md").unlink(missing_ok=True)  # PEFT's template, nothing filled in
    elif (folder / "adapter").is_dir():
        shutil.rmtree(folder / "adapter")  # of an earlier model in this folder
    write_text(folder / "recipe.yaml", dump_recipe(recipe))


def _stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """As it goes into a file: only float32 numbers take another type."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor.to(dtype) if tensor.dtype == torch.float32 else tensor


def _self_contained(model: "Salmonn", folder: Path) -> Recipe:
    """The recipe as it stands in the folder: a decoder that was made here is copied in and named relative to it.

    Published weights stay where they are: they are many times larger than what was trained, and not the run's own.
    """
    # Where this machine keeps its corpora is nothing that whoever loads the weights can use.
    train = model.recipe.train.model_copy(update={"init": None, "distill": None})
    recipe = model.recipe.model_copy(update={"checkpoint": None, "data": Data(), "train": train, "stages": []})
    parts = {name: _from_anywhere(getattr(recipe, name)) for name in ("speech_encoder", "audio_encoder", "decoder")}
    recipe = recipe.model_copy(update=parts)
    if recipe.decoder.tokenizer is not None and (Path(recipe.decoder.tokenizer) / MAPPING).is_file():
        # A trimmed tokenizer was made for this system and is small; nobody else has it.
        tokens = folder / "tokenizer"
        if Path(recipe.decoder.tokenizer).resolve() != tokens.resolve():
            with atomic_folder(tokens) as part:
                for file in sorted(Path(recipe.decoder.tokenizer).iterdir()):
                    if file.is_file() and (file.name == MAPPING or file.name in TOKENIZER_FILES):
                        shutil.copyfile(file, part / file.name)
        recipe = recipe.model_copy(update={"decoder": recipe.decoder.model_copy(update={"tokenizer": "./tokenizer"})})
    target = folder / "decoder"
    if makes_decoder(recipe):
        base = model.decoder.base
        plain = {k.replace(".base_layer.", "."): v for k, v in base.state_dict().items() if "lora_" not in k}
        with atomic_folder(target) as part:
            base.save_pretrained(part, state_dict=plain)
            model.decoder.tokenizer.save_pretrained(part)
    elif recipe.decoder.path is None or not _belongs_to_a_checkpoint(Path(recipe.decoder.path), target):
        return recipe
    elif Path(recipe.decoder.path).resolve() != target.resolve():
        with atomic_folder(target) as part:
            copy_folder(Path(recipe.decoder.path), part)
    decoder = recipe.decoder.model_copy(update={"path": "./decoder", "config": None, "tokenizer": None})
    return recipe.model_copy(update={"decoder": decoder})


def _from_anywhere(part: Part) -> Part:
    """A path that is relative to the working folder would be lost in another one."""
    given = {key: getattr(part, key, None) for key in ("path", "tokenizer")}
    there = {key: os.path.abspath(Path(path).expanduser()) for key, path in given.items() if path and _is_local(path)}
    return part.model_copy(update=there)


def _is_local(path: str) -> bool:
    return Path(path).expanduser().exists()


def _belongs_to_a_checkpoint(decoder: Path, target: Path) -> bool:
    return decoder.is_dir() and (decoder.resolve() == target.resolve() or (decoder.parent / WEIGHTS).is_file())


def load_checkpoint(model: "Salmonn", path: Path, *, allow_missing: bool = False) -> KeyReport:
    """Load a folder of ours or a team's `.pth` over the model.

    Args:
        model: as its recipe describes it; parts on the meta device get the file's own tensors.
        path: folder or file.
        allow_missing: report missing and unexpected keys instead of refusing them.

    Raises:
        CheckpointError: something is not there, does not fit, is missing or unexpected; every key is named.
    """
    known = model.state_dict()
    if path.is_file():
        content = read_safetensors(path) if path.suffix == ".safetensors" else read_torch_file(path)
        _check_stated(content, model.recipe, path, allow_missing)
        state = _without_tables(plain_names(find_weights(content, path), path, known, _our_name), model, path)
        expected = set(own_state(model)) | {name for name in known if "lora_" in name}
        return _load(model, state, expected, path, allow_missing)
    if not path.exists():
        raise CheckpointError(f"checkpoint {path}: there is no such file or folder")
    if not (path / WEIGHTS).is_file():
        raise CheckpointError(f"checkpoint {path}: no {WEIGHTS} there. Train it first, or give another --checkpoint.")
    state = plain_names(read_safetensors(path / WEIGHTS), path / WEIGHTS, known)
    expected = set(own_state(model))
    if model.recipe.lora is not None or (path / "adapter").is_dir():
        state |= _read_adapter(path / "adapter", model)
    if model.recipe.lora is not None:
        expected |= {name for name in known if "lora_" in name}
    return _load(model, state, expected, path, allow_missing)


def has_summary(folder: Path) -> bool:
    """Whether a checkpoint folder holds a connector's summary."""
    return any(name.startswith("connector.summary.") for name in read_safetensors(folder / WEIGHTS))


def _check_stated(content: Any, recipe: Recipe, path: Path, allow_missing: bool) -> None:
    """Hold the training config that a team's `.pth` carries against the recipe, where shapes do not tell.

    Raises:
        CheckpointError: they differ, and not `allow_missing`.
    """
    config = content.get("config") if isinstance(content, dict) else None
    config = config.get("model", config) if isinstance(config, dict) else None
    if not isinstance(config, dict):
        return
    sections = {"lora": recipe.lora, "connector": recipe.connector}
    problems = []
    for key, (section, name) in STATED.items():
        own = None if sections[section] is None else getattr(sections[section], name)
        theirs = config.get(key)
        numbers = isinstance(theirs, int | float) and not isinstance(theirs, bool) and own is not None
        if numbers and not math.isclose(float(theirs or 0), float(own or 0), rel_tol=1e-3):
            problems.append(f"config.model.{key} is {theirs}, the recipe's {section}.{name} {own}")
    if problems and not allow_missing:
        raise CheckpointError(
            f"checkpoint {path} was trained with other settings than recipe {recipe.name!r} has:\n{listing(problems)}\n"
            "Take them over with --set, or use the weights all the same with --allow-missing."
        )
    if problems:
        warn(f"checkpoint {path} was trained with other settings; the recipe's are used:\n{listing(problems)}")


def _our_name(name: str) -> str:
    for pattern, ours in RENAMES:
        name, substitutions = pattern.subn(ours, name)
        if substitutions:
            break
    return name


def _without_tables(state: dict[str, Tensor], model: "Salmonn", path: Path) -> dict[str, Tensor]:
    """The weights without tables that older libraries stored beside them and that follow from the configs.

    Raises:
        CheckpointError: such a table is not what follows, so the weights were trained on another model.
    """
    wrong = []
    for name in [name for name in state if name.endswith(TABLES) and name not in model.state_dict()]:
        table = state.pop(name).float().flatten()
        expected = torch.arange(len(table), dtype=torch.float32)
        if name.endswith(FREQUENCIES):
            expected = model.decoder.base.model.rotary_emb.inv_freq.float().cpu()
        if table.shape != expected.shape or not torch.allclose(table, expected, rtol=0.01):  # some are half precision
            wrong.append(name)
    if wrong:
        raise CheckpointError(
            f"checkpoint {path}: these tables are not those of recipe {model.recipe.name!r}; name the decoder that it "
            f"was trained on with --set decoder.path=FOLDER:\n{listing(wrong)}"
        )
    return state


def _read_adapter(folder: Path, model: "Salmonn") -> dict[str, Tensor]:
    if not any((folder / name).is_file() for name in adapter.WEIGHTS):
        raise CheckpointError(
            f"checkpoint {folder.parent}: its LoRA weights should be in {folder / adapter.WEIGHTS[0]}, "
            "which is not there"
        )
    config = adapter.read_config(folder)
    file, tensors = adapter.read_weights(folder)
    if config is not None:
        adapter.check_ranks(config, file, tensors)
        adapter.refuse_other_scales(config, model.decoder.model)
    return plain_names(tensors, file, model.state_dict(), adapter.own_name)


def _load(model: "Salmonn", state: dict[str, Tensor], expected: set[str], path: Path, allow_missing: bool) -> KeyReport:
    own = model.state_dict()
    # What the recipe's own paths provide is not expected, but a checkpoint in which it was trained holds it.
    known = expected | (set(state) & set(own))
    report = KeyReport(sorted(known & set(state)), sorted(expected - set(state)), sorted(set(state) - known))
    shapes = [
        shape_line(name, state[name].shape, own[name].shape, model.recipe)
        for name in report.matched
        if state[name].shape != own[name].shape
    ]
    problems = [f"missing: {name}" for name in report.missing]
    problems += [f"unexpected: {name}" for name in report.unexpected]
    if shapes or (problems and not allow_missing) or not report.matched:
        unlike = (
            f"\nIt holds {example_names(state)}; expected: {example_names(expected)}." if not report.matched else ""
        )
        raise CheckpointError(
            f"checkpoint {path} does not fit recipe {model.recipe.name!r} ({report}):{unlike}\n"
            f"{listing([*shapes, *problems])}\n"
            "Name the recipe that it was trained with, or load what fits with --allow-missing."
        )
    refuse_non_finite(path if path.is_file() else path / WEIGHTS, {name: state[name] for name in report.matched})
    if problems:
        warn(f"checkpoint {path}: {report}:\n{listing(problems)}")
    elif path.is_file():
        say(f"checkpoint {path}: {report}")
    if model.device.type == "meta":
        model.load_state_dict({name: state[name] for name in report.matched}, strict=False, assign=True)
    else:  # what is not in `state` came from the recipe's own paths
        model.load_state_dict({name: state[name] for name in report.matched}, strict=False)
    return report
