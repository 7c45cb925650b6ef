"""A teacher's logits for a student that is trained: computed with each batch, or once and kept on disk."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nota_cli.console import progress, say
from nota_cli.data.batches import TrainingBatch, TrainingBatches
from nota_cli.data.row_batches import RowBatches, loader
from nota_cli.errors import RecipeError, listing
from nota_cli.features.batch import Features
from nota_cli.features.soft_targets import SoftTargets
from nota_cli.features.states import States
from nota_cli.models.build import build
from nota_cli.models.families.salmonn import Encoded, Salmonn
from nota_cli.prompts import Query
from nota_cli.recipe.load import load_system
from nota_cli.recipe.schema import Recipe
from nota_cli.recipe.section import LoadFormat
from nota_cli.recipe.training import Distill
from nota_cli.training.encoder_cache import clip_key, random_changes
from nota_cli.training.shards import SHARD_BYTES, Shards, digest_tensors

Asked = tuple[tuple[int, int], Query, str]
"""A clip by its source and row, what is asked of it, and the answer whose tokens the teacher judges."""
FORMAT = 1  # counts up when what is kept is made in another way


def check_distillable(recipe: Recipe) -> None:
    """Whether what a recipe asks for beside `train.distill` goes with it.

    Raises:
        RecipeError: it does not.
    """
    spec = recipe.train.distill
    if spec is None:
        return
    if spec.cache is not None and spec.states_weight:
        raise RecipeError(
            "train.distill.states_weight compares what student and teacher hear, and train.distill.cache keeps the "
            "teacher's answers alone; leave one of the two out"
        )
    if spec.cache is None:
        if recipe.train.cache is not None:
            raise RecipeError(
                "train.cache keeps the student's encoders from seeing the clips, and the teacher has to see them: set "
                "train.distill.cache too, so that it does so once"
            )
        return
    problems = random_changes(recipe)
    if problems:
        raise RecipeError(
            f"train.distill.cache keeps what the teacher says of clips that do not change:\n{listing(problems)}\n"
            "Take these out of the recipe, or train without train.distill.cache: the teacher then runs with each batch."
        )


class Teacher:
    """The model that a student is trained towards; nothing of it changes.

    Args:
        spec: the recipe's section.
        student: the model that is trained.
        device: where the teacher runs.
        load_format: "dummy" takes random weights of the true size.

    Raises:
        RecipeError: it is of another family, has no trained weights, or its vocabulary is not the student's.
    """

    def __init__(self, spec: Distill, student: Salmonn, device: str, load_format: LoadFormat = "auto") -> None:
        self.spec, self.student = spec, student
        recipe = load_system(spec.teacher)
        by_texts = (
            "A teacher of any kind can teach by its texts: nota infer over the training rows, the texts into an "
            "annotation, and train on that (docs/training.md)."
        )
        if not isinstance(recipe, Recipe):
            raise RecipeError(
                f"train.distill.teacher: {spec.teacher} is of the family {recipe.family}, whose logits are not to be "
                f"had. {by_texts}"
            )
        if recipe.checkpoint is None and load_format != "dummy":
            raise RecipeError(
                f"train.distill.teacher: recipe {spec.teacher} has no checkpoint, so it knows nothing to teach; name a "
                "checkpoint folder, or a recipe with a checkpoint"
            )
        self.model = build(recipe, device, "run", load_format=load_format)
        self.vocabulary = len(student.decoder.tokenizer)
        difference = _difference(student, self.model)
        if difference is not None:
            raise RecipeError(
                f"train.distill.teacher: {spec.teacher} has another vocabulary than the student: {difference}. Logits "
                f"can be compared over one vocabulary alone. {by_texts}"
            )
        if spec.states_weight:
            self._check_states()

    def __call__(self, batch: TrainingBatch) -> tuple[SoftTargets, Encoded | None]:
        """What it says of the tokens of a batch's answers, row after row, and what it hears, if it runs now."""
        if batch.soft_targets is not None:
            return batch.soft_targets.to(self.model.device), None
        features = batch.features if batch.teacher_features is None else batch.teacher_features
        assert not isinstance(features, States)  # refused by `check_distillable`
        logits, encoded = self.run(features, batch.queries, batch.texts)
        return SoftTargets.of_logits(logits, self.spec.temperature, self.spec.top_k), encoded

    def run(self, features: Features, queries: list[Query], texts: list[str]) -> tuple[Tensor, Encoded]:
        """Its logits [answer tokens, vocabulary], in its own number type, and the encoded batch."""
        with torch.no_grad(), torch.autocast(self.model.device.type, enabled=False):
            _, logits, encoded = self.model.answer_logits(features, queries, texts)
            return logits[:, : self.vocabulary], encoded

    def divergence(self, logits: Tensor, targets: SoftTargets) -> Tensor:
        """Of the student's logits [answer tokens, vocabulary]; see `SoftTargets.divergence`."""
        return targets.divergence(logits[:, : self.vocabulary], self.spec.temperature)

    def states_difference(self, student: Encoded, teacher: Encoded) -> Tensor:
        """Squared difference of the outputs of encoders and connector, relative to the teacher's; mean over clips."""
        pairs = [
            (student.speech_states, teacher.speech_states, teacher.speech_mask),
            (student.audio_states, teacher.audio_states, teacher.audio_mask),
            (student.embeds, teacher.embeds, teacher.mask),
        ]
        terms = []
        for own, aim, mask in pairs:
            if own is not None and aim is not None:
                real = 1.0 if mask is None else mask.unsqueeze(-1)
                power = (aim.float().square() * real).sum((1, 2)).clamp(min=1e-6)
                terms.append((((own - aim).float().square() * real).sum((1, 2)) / power).mean())
        return torch.stack(terms).mean()

    def _check_states(self) -> None:
        """Whether the states of both can be compared.

        Raises:
            RecipeError: they cannot.
        """
        shapes = [_shapes(model) for model in (self.student, self.model)]
        unlike = [
            f"{name}: {shapes[1][name]}, the student's {value}"
            for name, value in shapes[0].items()
            if shapes[1][name] != value
        ]
        if unlike:
            raise RecipeError(
                f"train.distill.states_weight: the hidden states of {self.spec.teacher} cannot be compared with the "
                f"student's:\n{listing(unlike)}\nLeave it out, and the teacher teaches by its logits alone."
            )

    def key(self) -> str:
        """Twelve hexadecimal digits that change with its weights and with what else its answers depend on."""
        recipe = self.model.recipe
        digest = hashlib.sha256()
        settings = [FORMAT, self.spec.temperature, self.spec.top_k, self.student.end_symbol]
        settings += [recipe.audio.model_dump(), recipe.prompts.model_dump(), recipe.connector.model_dump()]
        digest.update(json.dumps(settings).encode())
        digest_tensors(digest, self.model.state_dict())
        return digest.hexdigest()[:12]


def _shapes(model: Salmonn) -> dict[str, object]:
    """What two models have to share for their hidden states to be compared, in words."""
    speech: Any = model.speech_encoder
    sounds: Any = model.audio_encoder
    return {
        "audio.pad": model.recipe.audio.pad,
        "width of the speech encoder": speech.output_dim,
        "width of the audio encoder": None if sounds is None else sounds.output_dim,
        "width of the decoder": model.decoder.width,
        "states of a window and from one to the next": (model.connector.window, model.connector.stride),
        "embeddings of a summary": model.recipe.connector.summary,
    }


def _difference(student: Salmonn, teacher: Salmonn) -> str | None:
    """The first difference of two vocabularies, in words."""
    own, other = student.decoder.tokenizer.get_vocab(), teacher.decoder.tokenizer.get_vocab()
    if len(own) != len(other):
        return f"{len(other):,} tokens, the student's {len(own):,}"
    for token, number in own.items():
        if other.get(token) != number:
            return f"token {token!r} is number {other.get(token, 'none')}, the student's {number}"
    if student.end_symbol != teacher.end_symbol:
        return f"its answers end with {teacher.end_symbol!r}, the student's with {student.end_symbol!r}"
    return None


class TeacherCache:
    """The teacher's answers of the clips that some batches need, on disk; call it with clips, queries and texts.

    Args:
        folder: the cache's folder; files of this teacher lie in a folder in it.
        teacher: whose answers they are.
        batches: what is trained on.
    """

    def __init__(self, folder: Path, teacher: Teacher, batches: TrainingBatches) -> None:
        self.folder = folder / teacher.key()
        self.teacher, self.batches = teacher, batches
        self.shards = Shards(self.folder, "train.distill.cache", "the teacher is asked again")
        self._clips: dict[tuple[int, int], str] = {}

    def __call__(self, clips: Sequence[tuple[int, int]], queries: Sequence[Query], texts: Sequence[str]) -> SoftTargets:
        """What the teacher says of the answers to some (source, row) clips, one after another."""
        keys = [self._key(*each) for each in zip(clips, queries, texts, strict=True)]
        return SoftTargets.joined(
            [SoftTargets(self.shards[f"log_probs/{key}"], self.shards[f"ids/{key}"].long()) for key in keys]
        )

    def fill(self, order: Sequence[int], *, process: int = 0, processes: int = 1) -> int:
        """Ask the teacher about what these batches have and is not there yet, this process its share; returns how many.

        Files that are damaged are removed, and what was in them asked again.
        """
        wanted: dict[str, Asked] = {}
        for index in order:
            for clip, query, text in self.batches.answers(index):
                wanted[self._key(clip, query, text)] = (clip, query, text)
        self.shards.scan(remove=process == 0)
        lacking = [(key, asked) for key, asked in wanted.items() if f"ids/{key}" not in self.shards]
        lacking.sort(key=lambda item: (item[1][0], item[0]))
        mine = lacking[process::processes]
        if mine:
            say(f"asking the teacher about {len(mine)} clips, into {self.folder}")
            with progress(process == 0) as bar:
                task = bar.add_task("teacher", total=len(mine), detail="")
                for source in range(len(self.batches.corpora)):
                    own = [each for each in mine if each[1][0][0] == source]
                    self._ask(source, own, lambda count: bar.update(task, advance=count))
        return len(mine)

    def _ask(self, source: int, items: Sequence[tuple[str, Asked]], advance: Callable[[int], None]) -> None:
        corpus = self.batches.corpora[source]
        rows = [corpus.rows[clip[1]] for _, (clip, _, _) in items]
        size = self.teacher.model.recipe.generate.batch_size
        groups = [list(range(start, min(start + size, len(rows)))) for start in range(0, len(rows), size)]
        spec = self.teacher.model.preprocessor(torch.device("cpu"))
        tensors: dict[str, Tensor] = {}
        for batch in loader(RowBatches(rows, groups, corpus.source.audio_root, spec), range(len(groups)), 0):
            chosen = [items[row] for row in batch.rows]
            texts = [text for _, (_, _, text) in chosen]
            logits, _ = self.teacher.run(batch.features, [query for _, (_, query, _) in chosen], texts)
            soft = SoftTargets.of_logits(logits, self.teacher.spec.temperature, self.teacher.spec.top_k).to("cpu")
            lengths = self.teacher.model.answer_lengths(texts)
            for (key, _), part in zip(chosen, soft.split(lengths), strict=True):
                tensors[f"log_probs/{key}"] = part.log_probs.clone()
                tensors[f"ids/{key}"] = part.ids.to(torch.int32)
            if sum(tensor.nbytes for tensor in tensors.values()) >= SHARD_BYTES:
                self.shards.write(tensors)
                tensors = {}
            advance(len(chosen))
        if tensors:
            self.shards.write(tensors)

    def _key(self, clip: tuple[int, int], query: Query, text: str) -> str:
        if clip not in self._clips:
            self._clips[clip] = clip_key(self.batches.corpora[clip[0]], clip[1])
        parts = [self._clips[clip], query.task, query.question, text]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
