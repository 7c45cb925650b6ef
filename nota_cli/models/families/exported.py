"""Exports as a model family: an export's graphs, a tokenizer and numpy answer as the torch model does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nota_cli.errors import CheckpointError, RecipeError
from nota_cli.features.arrays import ArrayFeatures, ArrayFeatureSpec
from nota_cli.generation.answer import Answer
from nota_cli.generation.array_search import beam_search, search_one
from nota_cli.generation.draws import Sampling, row_seeds
from nota_cli.generation.loop_guard import guarded
from nota_cli.generation.options import DecodingOptions
from nota_cli.generation.runtimes.onnx import CachedDecoder, CachingDecoder, Graphs, OnnxRuntime, TokenTable
from nota_cli.hub import local_path
from nota_cli.models.parts import Part
from nota_cli.models.purpose import Purpose
from nota_cli.prompts import Query, wants_summary, wrap
from nota_cli.recipe.exported import FAMILY, ExportRecipe, read_manifest
from nota_cli.recipe.schema import Generate
from nota_cli.recipe.section import LoadFormat

if TYPE_CHECKING:  # llama.cpp is loaded for folders whose decoder it runs
    from nota_cli.generation.runtimes.llama_cpp import LlamaModel

Array = np.ndarray[Any, Any]
OnText = Callable[[str], None]

PATCH = 16  # frames, of all audio encoders
SPACE_BEFORE = (" .", " ?", " !", " ,", " n't", " 'm", " 's", " 've", " 're")
"""What transformers' `clean_up_tokenization_spaces` joins to the word before it."""


@dataclass(frozen=True)
class Cpu:
    """The only device."""

    type: str = "cpu"

    def __str__(self) -> str:
        return self.type


class ExportedSalmonn:
    """An export that answers (`nota_cli.models.families.base.AudioModel`).

    Args:
        recipe: prompts, audio and search settings.
        folder: the export.

    Raises:
        CheckpointError: the folder is no export, or damaged.
    """

    device = Cpu()

    def __init__(self, recipe: ExportRecipe, folder: Path) -> None:
        self.recipe, self.manifest = recipe, read_manifest(folder)
        self._llama: LlamaModel | None = None
        if self.manifest.gguf is None:
            self.kernel = "onnxruntime"
            self.graphs = Graphs(folder, self.manifest, TokenTable(folder, self.manifest))
        else:
            from nota_cli.generation.runtimes import llama_cpp

            self.kernel = "llama.cpp"
            self._llama = llama_cpp.LlamaModel(folder, self.manifest)
            self.graphs = Graphs(folder, self.manifest, llama_cpp.GgufTable(folder, self.manifest.gguf))
        self._tokenizer = _tokenizer(folder / "tokenizer.json")

    def preprocessor(self, device: Any = None) -> ArrayFeatureSpec:
        """Spectrograms in numpy."""
        audio, front = self.recipe.audio, self.manifest.front
        return ArrayFeatureSpec(front.mel_bins, front.audio, audio.pad, audio.max_seconds)

    def encode(self, features: ArrayFeatures) -> list[Array]:
        """Each clip's embeddings of the decoder's width, `[tokens, width]`; a clip at a time, so nothing is padded."""
        return [self._encode_clip(features, row) for row in range(len(features.log_mel))]

    encode_batch = encode

    def audio_states(self, features: ArrayFeatures, row: int) -> Array | None:
        """One clip's states of the audio encoder, `[1, states, width]`; None without one."""
        if features.fbank is None or features.fbank_lengths is None:
            return None
        longest = self.manifest.front.longest_bank
        bank = features.fbank[row : row + 1, : features.fbank_lengths[row]]
        pieces = [bank[:, start : start + longest] for start in range(0, bank.shape[1], longest)]
        # What is left behind the last whole patch of a clip or piece counts for nothing.
        whole = [np.ascontiguousarray(piece) for piece in pieces if piece.shape[1] >= PATCH]
        return np.concatenate([self.graphs.states("audio_encoder", piece) for piece in whole], axis=1)

    def _encode_clip(self, features: ArrayFeatures, row: int) -> Array:
        mel = features.log_mel[row : row + 1, :, : features.log_mel_lengths[row]]
        speech = self.graphs.states("speech_encoder", np.ascontiguousarray(mel))
        return self.graphs.connect(speech, self.audio_states(features, row), clip=self.recipe.audio.pad == "clip")

    def settings_for(self, task: str) -> Generate:
        """How the recipe has answers to one task found."""
        return self.recipe.generate.for_task(task)

    def generate_answers(
        self,
        features: ArrayFeatures | list[Array],
        queries: list[Query],
        settings: Generate | None = None,
        on_text: OnText | None = None,
    ) -> list[Answer]:
        """As every family's; settings of a task hold for the clips of that task."""
        settings = settings or self.recipe.generate
        encoded = self.encode(features) if isinstance(features, ArrayFeatures) else features
        by_task = {task: settings.for_task(task) for task in dict.fromkeys(query.task for query in queries)}
        answers: dict[int, Answer] = {}
        left = list(range(len(queries)))
        while left:  # rows whose tasks share all settings go together
            own = by_task[queries[left[0]].task]
            rows = [row for row in left if by_task[queries[row].task] == own]
            left = [row for row in left if row not in rows]
            part = [encoded[row] for row in rows], [queries[row] for row in rows]
            answers |= zip(rows, self._answer(*part, own, on_text), strict=True)
        return [answers[row] for row in range(len(queries))]

    def prompt_embeds(self, features: ArrayFeatures | list[Array], queries: list[Query]) -> tuple[Array, Array]:
        """Left-padded decoder input `[batch, length, width]` and its mask `[batch, length]`."""
        sounds = self.encode(features) if isinstance(features, ArrayFeatures) else features
        bos = self.manifest.decoder.bos_id
        rows = []
        for sound, query in zip(sounds, queries, strict=True):
            before, after = wrap(self.recipe.prompts, query)
            head = ([] if bos is None else [bos]) + self._ids(before)
            count = self.manifest.windows.summary
            sound = sound[:count] if wants_summary(self.recipe.prompts, query) else sound[count:]
            rows.append(np.concatenate([self._embed(head), sound, self._embed(self._ids(after))]))
        length = max(map(len, rows))
        embeds = np.zeros((len(rows), length, self.manifest.decoder.width), dtype=np.float32)
        mask = np.zeros((len(rows), length), dtype=np.bool_)
        for row, values in enumerate(rows):
            embeds[row, length - len(values) :] = values
            mask[row, length - len(values) :] = True
        return embeds, mask

    def decoding_options(self, settings: Generate) -> DecodingOptions:
        """When an answer ends, what its tokens are penalized for, and what they are drawn from."""
        entry = self.manifest.decoder
        drawn = Sampling(settings.temperature, settings.top_k, settings.top_p) if settings.sample else None
        ends = tuple(entry.end_ids)
        return DecodingOptions(settings.max_new_tokens, ends, entry.pad_id, settings.repetition_penalty, drawn)

    def parts(self) -> list[Part]:
        """What the manifest counts."""
        return [Part(each.name, each.parameters, each.by_type) for each in self.manifest.parts]

    def free_caches(self) -> None:
        """Nothing is kept from call to call."""

    def runtime(self, tokens: int) -> OnnxRuntime:
        """For measuring: one clip stage by stage."""
        if self._llama is None:
            return OnnxRuntime(self, self.new_decoder(1, tokens))
        from nota_cli.generation.runtimes.llama_cpp import LlamaRuntime

        return LlamaRuntime(self, self.new_decoder(1, tokens))

    def new_decoder(self, sequences: int, tokens: int) -> CachingDecoder:
        """A decoder with nothing in its cache.

        Args:
            sequences: answers that it keeps side by side at most, beams counted each.
            tokens: of an answer at most.
        """
        if self._llama is None:
            return CachedDecoder(self.graphs)
        from nota_cli.generation.runtimes.llama_cpp import LlamaDecoder

        return LlamaDecoder(self._llama, sequences, tokens)

    def differing_prompts(self, queries: Sequence[Query]) -> list[str]:
        """Texts round the sound that the tokenizer inside the GGUF file cuts otherwise than `tokenizer.json`."""
        if self._llama is None:
            return []
        texts = dict.fromkeys(text for query in queries for text in wrap(self.recipe.prompts, query))
        return [text for text in texts if self._llama.token_ids(text) not in (None, self._ids(text))]

    def _answer(
        self, encoded: list[Array], queries: list[Query], settings: Generate, on_text: OnText | None
    ) -> list[Answer]:
        def search(rows: list[int], chosen: Generate) -> list[Answer]:
            return self._search([encoded[row] for row in rows], [queries[row] for row in rows], chosen, on_text)

        return guarded(search(list(range(len(queries))), settings), settings, search)

    def _search(
        self, encoded: list[Array], queries: list[Query], settings: Generate, on_text: OnText | None
    ) -> list[Answer]:
        embeds, mask = self.prompt_embeds(encoded, queries)
        options = self.decoding_options(settings)
        decoder = self.new_decoder(len(embeds) * settings.beams, options.max_new_tokens)
        logits = decoder.prefill(embeds, mask)
        if settings.beams > 1:
            rows = beam_search(decoder, logits, options, settings.beams, settings.length_penalty)
        else:
            seeds = row_seeds(settings.seed, queries) if settings.sample else []
            watch = None if on_text is None else lambda ids: on_text(self._decode_answer(ids).text)
            rows = search_one(decoder, logits, options, seeds, watch)
        return [self._decode_answer(ids) for ids in rows]

    def _decode_answer(self, ids: Sequence[int]) -> Answer:
        ends = self.manifest.decoder.end_ids
        end = next((index for index, token in enumerate(ids) if token in ends), len(ids))
        text = str(self._tokenizer.decode(list(ids[:end]), skip_special_tokens=False))
        if self.manifest.decoder.cleans_up_spaces:
            for joined in SPACE_BEFORE:
                text = text.replace(joined, joined[1:])
        return Answer(text.split(self.manifest.decoder.end_symbol)[0].strip(), tokens=min(end + 1, len(ids)))

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _embed(self, ids: list[int]) -> Array:
        return self.graphs.embed(np.array(ids, dtype=np.int64))


def build(
    recipe: ExportRecipe,
    device: str,
    purpose: Purpose,
    *,
    load_format: LoadFormat = "auto",
    allow_missing: bool = False,
) -> ExportedSalmonn:
    """The family's builder (`nota_cli.models.families.base.Builder`).

    Raises:
        CheckpointError: the folder is no export, or damaged.
        RecipeError: it is to be trained, or to have dummy weights.
    """
    if purpose == "train":
        raise RecipeError(f"recipe {recipe.name!r} is an export, which runs and cannot be trained; train its source")
    if load_format == "dummy" and device != "meta":
        raise RecipeError(f"recipe {recipe.name!r} is an export, whose weights are in its graphs: leave dummy out")
    return ExportedSalmonn(recipe, _folder(recipe))


def sizes(recipe: ExportRecipe) -> list[Part]:
    """The parts, by the manifest."""
    return [Part(each.name, each.parameters, each.by_type) for each in read_manifest(_folder(recipe)).parts]


def _folder(recipe: ExportRecipe) -> Path:
    if recipe.checkpoint is None:
        raise RecipeError(f"recipe {recipe.name!r} of family {FAMILY} needs `checkpoint`, the folder of the export")
    return local_path(recipe.checkpoint, kind="checkpoint")


def _tokenizer(file: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises Exception itself
        raise CheckpointError(f"{file}: not a tokenizer: {error}. Export again.") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
