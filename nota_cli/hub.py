"""Weights by name: a local path, or an id on the Hugging Face hub that is found in its cache or fetched and checked."""

import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nota_cli.console import say
from nota_cli.errors import CheckpointError, listing
from nota_cli.hub_errors import AbsentWeightsError, explained, full
from nota_cli.hub_names import FILE_SUFFIXES, HubName, hub_name
from nota_cli.paths import path_note
from nota_cli.recipe.load import recipe_names
from nota_cli.recipe.schema import BaseRecipe

Kind = Literal["model", "tokenizer", "checkpoint"]

TEXT_SUFFIXES = (".json", ".txt", ".model", ".jinja")  # config and tokenizer; .model is SentencePiece's
CHECKPOINT_SUFFIXES = (".safetensors", ".yaml", *TEXT_SUFFIXES)
# A file that tells that a repository is in the cache at all.
MARKERS: dict[Kind, tuple[str, ...]] = {
    "model": ("config.json", "adapter_config.json"),  # the latter of a folder that holds a LoRA alone
    "tokenizer": ("tokenizer_config.json", "tokenizer.json", "tokenizer.model"),
    "checkpoint": ("recipe.yaml",),
}


@dataclass(frozen=True)
class Downloaded:
    """A part of a recipe that is here now.

    Attributes:
        part: the recipe's key, such as `decoder.path`.
        source: what the recipe says there.
        folder: where it lies; the file itself where `source` names one.
        bytes: its size.
        files: how many files were checked against the hub's own sizes and sums; 0 for what was a local path all along.
    """

    part: str
    source: str
    folder: Path
    bytes: int
    files: int


def _absent_name(path: str) -> HubName | None:
    """The hub's name for a path that is not here; a folder in a folder that is here is a slip, not a repository's."""
    name = hub_name(path)
    return None if name is not None and name.folder is not None and Path(Path(path).parts[0]).is_dir() else name


def _stand_in(name: HubName) -> Path | None:
    """The folder or file of one's own that is read in place of the hub's."""
    own = Path(os.environ.get("NOTA_WEIGHTS", "weights")) / name.repo.split("/")[1] / name.inside
    return own if (own.is_dir() if name.file is None else own.is_file()) else None


def local_path(path: str | Path, *, kind: Kind = "model") -> Path:
    """Where the weights that a recipe names lie on this machine; what is not here yet is fetched from the hub.

    A folder `weights/NAME` in the working folder (or in `$NOTA_WEIGHTS`) stands in for `ORG/NAME` of the hub, and what
    lies in it for that repository's files and folders.

    Args:
        path: a folder or file, which is returned as it is; `org/name`; `org/name/file.pt`; or `org/name/folder`; of
            another revision than its main branch as `org/name@revision`, and so on.
        kind: what of a repository is needed: config, tokenizer and weights; the tokenizer alone; a checkpoint folder.

    Raises:
        CheckpointError: there is no such path, repository or file; the repository is gated; the hub cannot be reached;
            the disk is full; or what came is not what the hub lists.
    """
    here = Path(path).expanduser()
    if str(path) and here.exists():
        return here
    name = _absent_name(str(path))
    if name is None:
        raise CheckpointError(
            f"there is no file or folder {str(path)!r}. "
            + (
                path_note(str(path))
                or "Name one that is there, or one on the hub as ORG/NAME, ORG/NAME/FILE.pt or ORG/NAME/FOLDER."
            )
        )
    if own := _stand_in(name):
        return own
    if kind == "checkpoint" and here.parent.is_dir() and _cached(name, kind) is None:
        # A folder of checkpoints is here, so a slip of the hand is likelier than an owner of that name on the hub.
        names = sorted(path.name for path in here.parent.iterdir() if not path.name.startswith("."))
        note = path_note(str(path)) or f"In {here.parent} there are: {', '.join(names) or 'none'}."
        raise CheckpointError(f"there is no checkpoint {str(path)!r}. {note}")
    return hub_path(name, kind)


def hub_path(name: HubName, kind: Kind = "model") -> Path:
    """Where a repository, or the file of it, lies in the hub's cache; fetched if it is not there.

    Raises:
        CheckpointError: as `local_path`.
    """
    return _cached(name, kind) or _fetch(name, kind)[0]


@contextmanager
def weights_of(recipe: BaseRecipe) -> Iterator[None]:
    """Inside, what `local_path` says of absent weights names the recipe, if it is one that ships with nota."""
    try:
        yield
    except AbsentWeightsError as error:
        raise (error.of_recipe(recipe.name) if recipe.name in recipe_names() else error) from error


def _sources(recipe: BaseRecipe) -> list[tuple[str, str]]:
    """Key and value of every path of weights in a recipe; what it builds from a `config` has none."""
    return [*recipe.weight_paths().items(), *([("checkpoint", recipe.checkpoint)] if recipe.checkpoint else [])]


def recipe_parts(recipe: BaseRecipe) -> list[tuple[str, str]]:
    """Those that somebody else has made: all but a checkpoint that is trained here."""
    return [(part, source) for part, source in _sources(recipe) if part != "checkpoint" or hub_name(source)]


def stored_bytes(recipe: BaseRecipe) -> int | None:
    """Bytes of all files that a recipe names; None where some are not here yet. Asks nobody."""
    total = 0
    for part, source in _sources(recipe):
        local, name = Path(source).expanduser(), hub_name(source)
        if not local.exists():
            cached = None if name is None else _stand_in(name) or _cached(name, _kind(part))
            if cached is None:
                return None
            local = cached
        total += sum(file.stat().st_size for file in [local, *local.rglob("*")] if file.is_file())
    return total


def download(recipe: BaseRecipe, on_part: Callable[[str, str], None] | None = None) -> list[Downloaded]:
    """Fetch every part of a recipe and check it: each file has the hub's size and, where it gives one, SHA-256.

    Files that are here already are checked as well, and fetched again where they are damaged. A file whose transfer is
    cut goes on where it was; a run that was killed keeps the files that had come whole.

    Args:
        recipe: its local paths are left alone.
        on_part: called with a part's key and value before it is looked at.

    Raises:
        CheckpointError: as `local_path`; the parts before are kept. A local path that is not there is told at the end,
            when all that can be fetched has been.
    """
    done, absent = [], []
    for part, source in recipe_parts(recipe):
        if on_part is not None:
            on_part(part, source)
        here = Path(source).expanduser()
        name = None if here.exists() else _absent_name(source)
        if name is None and not here.exists():
            absent.append(f"{part}: there is no {source}, and it is no name on the hub")
        elif name is None:
            local = here
            inside = [local] if local.is_file() else [path for path in local.rglob("*") if path.is_file()]
            done.append(Downloaded(part, source, local, sum(path.stat().st_size for path in inside), 0))
        else:
            local, sizes = _fetch(name, _kind(part))
            done.append(Downloaded(part, source, local, sum(sizes), len(sizes)))
    if absent:
        got = ", ".join(item.part for item in done) or "nothing"
        raise CheckpointError(
            f"not every part of recipe {recipe.name!r} can be fetched ({got} is here now). Get these from their "
            f"publishers and put them there, or name other ones with --set:\n{listing(absent)}"
        )
    return done


def wanted_files(names: list[str], kind: Kind, folder: str | None = None) -> list[str]:
    """Which of a repository's files nota reads: config and tokenizer, weights once and as safetensors if there are any.

    Copies for other frameworks, in other formats and precisions stay where they are; so does what is not in `folder`.
    """
    if folder is not None:
        inside = [name.removeprefix(f"{folder}/") for name in names if name.startswith(f"{folder}/")]
        return [f"{folder}/{name}" for name in wanted_files(inside, kind)]
    if kind == "checkpoint":
        return [name for name in names if name.endswith(CHECKPOINT_SUFFIXES)]
    top = [name for name in names if "/" not in name]
    texts = [name for name in top if name.endswith(TEXT_SUFFIXES) and ".index." not in name]
    return texts if kind == "tokenizer" else list(dict.fromkeys(texts + _weights(top) + _adapter(top)))


def _adapter(top: list[str]) -> list[str]:
    """A LoRA beside a model's own weights, which transformers loads with them."""
    return sorted({"adapter_model.safetensors", "adapter_model.bin"} & set(top), reverse=True)[:1]


def _weights(top: list[str]) -> list[str]:
    if "model.safetensors" in top:
        return ["model.safetensors"]
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        shards = [name for name in top if re.fullmatch(rf"{stem}-\d+-of-\d+\.{suffix}", name)]
        index = f"{stem}.{suffix}.index.json"
        if shards and index in top:
            return [index, *shards]
        if suffix == "safetensors" and (others := [name for name in top if name.endswith(".safetensors")]):
            return others  # quantizers have names of their own
    return [name for name in top if name == "pytorch_model.bin"]


def _kind(part: str) -> Kind:
    return "tokenizer" if part == "decoder.tokenizer" else "checkpoint" if part == "checkpoint" else "model"


def _cached(name: HubName, kind: Kind) -> Path | None:
    """The file or folder in the hub's cache, if all of it is there; asks nobody."""
    from huggingface_hub import try_to_load_from_cache

    prefix = "" if name.folder is None else f"{name.folder}/"
    for marker in MARKERS[kind] if name.file is None else (name.file,):
        cached = try_to_load_from_cache(name.repo, prefix + marker, revision=name.revision)
        if isinstance(cached, str) and (name.file is not None or _whole(Path(cached).parent, kind)):
            return Path(cached) if name.file is not None else Path(cached).parent
    return None


def _whole(folder: Path, kind: Kind) -> bool:
    """A download that was cut leaves a folder without its last files."""
    if kind == "tokenizer":
        return True
    files = [path.name for path in folder.iterdir() if path.is_file()]  # not where a link leads nowhere
    if "adapter_config.json" in files and not _adapter(files):
        return False
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (folder / index).is_file():
            try:
                shards = set(json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values())
            except (ValueError, KeyError):
                return False
            return all((folder / shard).is_file() for shard in shards)
    return bool(_weights(files))


def _fetch(name: HubName, kind: Kind) -> tuple[Path, list[int]]:
    """Fetch what is not in the cache, check everything; returns where it is and the size of each file."""
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    with explained(name):
        info = HfApi().model_info(name.repo, revision=name.revision, files_metadata=True)
    files = {file.rfilename: file for file in info.siblings or []}
    if name.file is not None and name.file not in files:
        near = [file for file in files if file.endswith(FILE_SUFFIXES)]
        raise CheckpointError(f"{name.repo} on the hub has no {name.file}; its weights:\n{listing(near)}")
    names = [name.file] if name.file is not None else wanted_files(list(files), kind, name.folder)
    if not (names if kind == "tokenizer" else [file for file in names if file.endswith(FILE_SUFFIXES)]):
        raise CheckpointError(
            f"{name.spelled} on the hub holds nothing that nota can read as a {kind}; files of {name.repo}:\n"
            f"{listing(list(files))}"
        )
    _check_room(name, {file: files[file].size or 0 for file in names})
    with explained(name):
        patterns = [glob.escape(file) for file in names]
        folder = Path(snapshot_download(name.repo, revision=name.revision, allow_patterns=patterns, tqdm_class=_bars()))
        if folder.name != info.sha:
            raise CheckpointError(f"{name.repo} was changed on the hub while it was fetched; run the command again")
        damaged = [file for file in names if _flaw(folder / file, files[file])]
        for file in damaged:
            hf_hub_download(name.repo, file, revision=info.sha, force_download=True, tqdm_class=_bars())
    flaws = [f"{file}: {flaw}" for file in names if (flaw := _flaw(folder / file, files[file]))]
    if flaws:
        raise CheckpointError(f"{name.repo}: what came is not what the hub lists; try again later:\n{listing(flaws)}")
    return folder / name.inside, [(folder / file).stat().st_size for file in names]


def _flaw(path: Path, listed: Any) -> str | None:
    """What is wrong with a file, beside the hub's listing of it."""
    if not path.is_file():
        return "missing"
    if listed.size is not None and path.stat().st_size != listed.size:
        return f"{path.stat().st_size:,} bytes of {listed.size:,}"
    if listed.lfs is not None:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != listed.lfs.sha256:
                return "its SHA-256 is not the hub's"
    return None


def _check_room(name: HubName, sizes: dict[str, int]) -> None:
    """Better known now than gigabytes later."""
    from huggingface_hub import constants, try_to_load_from_cache

    here = {file for file in sizes if isinstance(try_to_load_from_cache(name.repo, file, revision=name.revision), str)}
    needed = sum(size for file, size in sizes.items() if file not in here)
    cache = Path(constants.HF_HUB_CACHE)
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise full(name, f"it needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free")
    if needed:
        say(f"fetching {name.spelled} from the hub, {needed / 1e6:,.1f} MB")


def _bars() -> type:
    """The bars of the hub's library, which count bytes, on a terminal alone; where nota switches them off, this brings
    them back.
    """
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    class Bars(tqdm):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **{"disable": None, "leave": False, **settings})

    return Bars
