"""States of frozen encoders on disk: every clip is encoded once, and later epochs read what came of it.

A folder of the cache belongs to encoders by their weights and to the settings that states depend on: with others,
another folder is used. In it lie safetensors files, each with a checksum over the names and bytes of its tensors.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from nota_cli.console import progress, say
from nota_cli.data.annotation import Row, clip_paths
from nota_cli.data.batches import Corpus, TrainingBatches
from nota_cli.data.row_batches import RowBatches, loader
from nota_cli.data.row_files import file_state
from nota_cli.errors import RecipeError, listing
from nota_cli.features.states import States
from nota_cli.models.families.salmonn import Salmonn
from nota_cli.recipe.schema import Recipe
from nota_cli.recipe.training import Augment, Source
from nota_cli.training.shards import SHARD_BYTES, Shards, digest_tensors

FORMAT = 1  # counts up when states are made in another way
CHANGES = ("join", "background", "crop_seconds", "mix_same_label")  # of a source: no clip is twice the same


def check_cacheable(recipe: Recipe) -> None:
    """Whether the encoders' states of a clip are the same every time.

    Raises:
        RecipeError: they are not; every reason is named.
    """
    problems = [
        f"{name}.train is true, so its states change with every step"
        for name in ("speech_encoder", "audio_encoder")
        if getattr(recipe, name).train
    ]
    problems += random_changes(recipe)
    if problems:
        raise RecipeError(
            f"train.cache keeps what frozen encoders make of clips that do not change:\n{listing(problems)}\n"
            "Take these out of the recipe, or train without train.cache."
        )


def random_changes(recipe: Recipe) -> list[str]:
    """The values of a recipe that make a clip another one each time that it is drawn."""
    changed = [name for name, value in recipe.train.augment if value != Augment.model_fields[name].default]
    problems = [f"train.augment.{name} changes clips at random" for name in changed]
    problems += [
        f"data.train.{number}.{name} makes another clip every time"
        for number, source in enumerate(recipe.data.train)
        for name in CHANGES
        if getattr(source, name) != Source.model_fields[name].default
    ]
    return problems


def clip_key(corpus: Corpus, row: int) -> str:
    """What changes whenever a file of a row's clip does."""
    parts = []
    for path in clip_paths(corpus.rows[row], corpus.source.audio_root):
        size, changed, _ = file_state(path)
        parts.append([os.path.realpath(path), size, changed])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def encoder_key(model: Salmonn, autocast: bool) -> str:
    """Twelve hexadecimal digits that change with the encoders' weights and with what else their states depend on."""
    digest = hashlib.sha256()
    spec = model.preprocessor(torch.device("cpu"))
    audio = model.recipe.audio_encoder.model_dump(exclude={"path", "config", "train"})
    settings = [FORMAT, spec.mel_bins, str(spec.front_end), spec.pad, spec.max_seconds, autocast, audio]
    digest.update(json.dumps(settings).encode())
    for encoder in (model.speech_encoder, model.audio_encoder):
        digest_tensors(digest, {} if encoder is None else encoder.state_dict())
    return digest.hexdigest()[:12]


class EncoderCache:
    """The states of the clips that some batches need; call it with (source, row) pairs for theirs.

    Args:
        folder: the cache's folder; files of these encoders lie in a folder in it.
        model: whose encoders' states these are.
        corpora: the sources.
        autocast: whether the encoders run in bfloat16.
    """

    def __init__(self, folder: Path, model: Salmonn, corpora: Sequence[Corpus], autocast: bool) -> None:
        self.folder = folder / encoder_key(model, autocast)
        self.model, self.corpora, self.autocast = model, corpora, autocast
        self.shards = Shards(self.folder, "train.cache", "its clips are encoded again")
        self.keys: dict[tuple[int, int], str] = {}

    def __call__(self, clips: Sequence[tuple[int, int]]) -> States:
        """A batch of their states."""
        speech: list[Tensor] = []
        audio: list[Tensor] = []
        for clip in clips:
            key = self.keys[clip]
            speech.append(self.shards[f"speech/{key}"])
            if f"audio/{key}" in self.shards:
                audio.append(self.shards[f"audio/{key}"])
        return States.padded(speech, audio or None)

    def fill(self, batches: TrainingBatches, order: Sequence[int], *, process: int = 0, processes: int = 1) -> int:
        """Encode the clips of these batches that are not there yet, this process its share; returns how many it did.

        Files that are damaged are removed, and their clips encoded again.
        """
        self.keys = {}
        for index in order:
            for draw in batches.plan[index]:
                clip = (draw.source, draw.rows[0])
                if clip not in self.keys:
                    self.keys[clip] = clip_key(self.corpora[clip[0]], clip[1])
        self.shards.scan(remove=process == 0)
        lacking = {key: clip for clip, key in sorted(self.keys.items()) if f"speech/{key}" not in self.shards}
        mine = dict(sorted(lacking.items(), key=lambda item: item[1])[process::processes])
        if mine:
            say(f"encoding {len(mine)} clips into {self.folder}")
            with progress(process == 0) as bar:
                bar_task = bar.add_task("encode", total=len(mine), detail="")
                for count in self._encode(mine):
                    bar.update(bar_task, advance=count)
        return len(mine)

    def _encode(self, lacking: dict[str, tuple[int, int]]) -> Iterator[int]:
        """Write the states of clips; yields how many clips each batch had."""
        tensors: dict[str, Tensor] = {}
        size = 0
        for source, corpus in enumerate(self.corpora):
            keys = [key for key, clip in lacking.items() if clip[0] == source]
            rows = [corpus.rows[lacking[key][1]] for key in keys]
            for chosen, states in self._states(rows, corpus.source.audio_root):
                for position, (speech, audio) in zip(chosen, states.clips(), strict=True):
                    pair = {f"speech/{keys[position]}": speech} | (
                        {} if audio is None else {f"audio/{keys[position]}": audio}
                    )
                    copies = {name: tensor.cpu().contiguous().clone() for name, tensor in pair.items()}
                    tensors |= copies
                    size += sum(tensor.nbytes for tensor in copies.values())
                if size >= SHARD_BYTES:
                    self.shards.write(tensors)
                    tensors, size = {}, 0
                yield len(chosen)
        if tensors:
            self.shards.write(tensors)

    @torch.inference_mode()
    def _states(self, rows: list[Row], audio_root: str) -> Iterator[tuple[list[int], States]]:
        size = self.model.recipe.generate.batch_size
        groups = [list(range(start, min(start + size, len(rows)))) for start in range(0, len(rows), size)]
        dataset = RowBatches(rows, groups, audio_root, self.model.preprocessor(torch.device("cpu")))
        workers = self.model.recipe.train.workers
        for batch in loader(dataset, range(len(groups)), workers):
            with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.autocast):
                yield batch.rows, self.model.encoder_states(batch.features)
