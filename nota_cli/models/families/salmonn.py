"""A model of SALMONN's family: encoders, connector and decoder in one piece."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from nota_cli.features.batch import Features, FeatureSpec
from nota_cli.features.states import States
from nota_cli.generation.answer import Answer
from nota_cli.generation.drawn_tokens import DrawnTokens
from nota_cli.generation.draws import Sampling, row_seeds
from nota_cli.generation.loop_guard import guarded
from nota_cli.generation.options import DecodingOptions
from nota_cli.generation.runtimes.torch import TorchRuntime
from nota_cli.generation.static_decoder import StaticCacheDecoder
from nota_cli.models.connectors.base import build_connector
from nota_cli.models.decoders.decoder import Decoder
from nota_cli.models.inventory import count_parts
from nota_cli.models.parts import Part
from nota_cli.prompts import Query, wants_summary, wrap
from nota_cli.recipe.schema import Generate, Recipe

IGNORED = -100  # a label that the loss leaves out
# Encoded at once on a CPU, padding included: 30 s. Attention over several long clips outgrows the caches there and
# takes twice as long.
MOST_FRAMES = 3_000


@dataclass(frozen=True)
class Encoded:
    """What a batch of clips becomes before the prompt is put round it; every mask is True at real places.

    Attributes:
        embeds: [batch, audio tokens, decoder width], and `mask` [batch, audio tokens].
        speech_states: [batch, states, width], and `speech_mask` [batch, states].
        audio_states: the same for the audio encoder, or None.
    """

    embeds: Tensor
    mask: Tensor
    speech_states: Tensor
    speech_mask: Tensor
    audio_states: Tensor | None
    audio_mask: Tensor | None

    def rows(self, chosen: list[int]) -> "Encoded":
        """Some clips of the batch."""
        parts: list[Any] = [getattr(self, part.name) for part in fields(self)]
        chosen_parts: list[Any] = [None if part is None else part[chosen] for part in parts]
        return Encoded(*chosen_parts)

    @classmethod
    def joined(cls, batches: Sequence["Encoded"]) -> "Encoded":
        """One batch of several, filled up with zeros and False where one is shorter."""
        whole: dict[str, Any] = {}
        for name in (field.name for field in fields(cls)):
            tensors = [getattr(batch, name) for batch in batches]
            if tensors[0] is None:
                whole[name] = None
                continue
            longest = max(tensor.size(1) for tensor in tensors)
            padding = [0, 0] * (tensors[0].dim() - 2)
            whole[name] = torch.cat([F.pad(tensor, [*padding, 0, longest - tensor.size(1)]) for tensor in tensors])
        return cls(**whole)


def neighbours(lengths: list[int], most: int) -> list[slice]:
    """Neighbours whose frames, each as many as the longest one's, come to no more than `most`, or single clips."""
    slices: list[slice] = []
    start, longest = 0, 0
    for index, length in enumerate(lengths):
        longest = max(longest, length)
        if index > start and (index + 1 - start) * longest > most:
            slices.append(slice(start, index))
            start, longest = index, length
    return [*slices, slice(start, len(lengths))]


class Salmonn(nn.Module):
    """Sound in, text out.

    Args:
        recipe: the system's recipe; prompts and audio settings are read from it.
        speech_encoder: features to states (see `nota_cli.models.encoders.whisper`).
        audio_encoder: the same for other sounds, or None.
        decoder: the language model.

    Attributes:
        compute: part to the type that it computes in, and why where it is not the stored one; of a model that runs.
    """

    def __init__(self, recipe: Recipe, speech_encoder: nn.Module, audio_encoder: nn.Module | None, decoder: Decoder):
        super().__init__()
        self.recipe = recipe
        self.speech_encoder = speech_encoder
        self.audio_encoder = audio_encoder
        self.decoder = decoder
        encoders: list[Any] = [speech_encoder, audio_encoder]
        speech_width, audio_width = [None if encoder is None else int(encoder.output_dim) for encoder in encoders]
        self.connector = build_connector(recipe.connector, speech_width or 0, audio_width, decoder.width)
        self.greedy = StaticCacheDecoder(decoder)
        self.compute: dict[str, str] = {}

    @property
    def device(self) -> torch.device:
        """Where the model's weights lie."""
        return self.connector.device

    @property
    def kernel(self) -> str:
        """What multiplies the decoder's weights."""
        return self.decoder.kernel

    def components(self) -> dict[str, nn.Module]:
        """The modules that it is made of, by name; adapters are in the decoder's."""
        modules = {"speech_encoder": self.speech_encoder, "audio_encoder": self.audio_encoder}
        modules |= {"connector": self.connector, "decoder": self.decoder}
        return {name: module for name, module in modules.items() if module is not None}

    def parts(self) -> list[Part]:
        """Parameters and bytes of its components, and of the adapters; in a model that runs what each computes in."""
        return count_parts(self.components(), adapted=self.recipe.lora is not None, compute=self.compute)

    def preprocessor(self, device: torch.device | None = None) -> FeatureSpec:
        """What its encoders want from the audio, and where to make it: on `device` (the model's), or in workers."""
        audio = self.recipe.audio
        if audio.features == "cpu":
            chosen = None
        else:
            chosen = self.device if device is None else device
            chosen = chosen if audio.features == "device" or chosen.type == "cuda" else None
        speech: Any = self.speech_encoder
        sounds: Any = self.audio_encoder
        front_end = None if sounds is None else sounds.front_end
        return FeatureSpec(speech.config.num_mel_bins, front_end, audio.pad, audio.max_seconds, chosen)

    def runtime(self, tokens: int) -> TorchRuntime:
        """For measuring: one clip stage by stage."""
        return TorchRuntime(self, tokens)

    def free_caches(self) -> None:
        """Give up what greedy decoding keeps between batches."""
        self.greedy.reset_cache()

    @property
    def end_symbol(self) -> str:
        """The text that ends an answer."""
        return self.recipe.prompts.end_symbol or self.decoder.tokenizer.eos_token

    def train(self, mode: bool = True) -> "Salmonn":
        """Training or evaluation mode, as always; what greedy decoding keeps between batches is given up."""
        self.greedy.reset_cache()
        return super().train(mode)

    def encode(self, features: Features | States) -> Encoded:
        """A batch of clips to embeddings of the decoder's width (not yet scaled for it).

        Args:
            features: of the clips; or what `encoder_states` made of them, and the encoders are not run.
        """
        states = self.encoder_states(features) if isinstance(features, Features) else features.to(self.device)
        speech_mask = states.speech_mask if self.recipe.audio.pad == "clip" else None
        embeds, mask = self.connector(states.speech, speech_mask, states.audio, states.audio_mask)
        return Encoded(embeds, mask, states.speech, states.speech_mask, states.audio, states.audio_mask)

    def encoder_states(self, features: Features) -> States:
        """What the encoders make of a batch of clips."""
        features = features.to(self.device)
        lengths = features.log_mel_lengths if self.recipe.audio.pad == "clip" else None
        speech, speech_mask = self.speech_encoder(features.log_mel, lengths)
        if self.audio_encoder is None:
            return States(speech, speech_mask)
        return States(speech, speech_mask, *self.audio_encoder(features.fbank, features.fbank_lengths))

    @torch.inference_mode()
    def encode_batch(self, features: Features) -> Features | Encoded:
        """On the CPU encoded, a few neighbours at a time, whose attention fits its caches; else the features."""
        if self.device.type != "cpu":
            return features
        slices = neighbours(features.log_mel_lengths.tolist(), MOST_FRAMES)
        if len(slices) == 1:
            return features
        return Encoded.joined([self.encode(features.part(chosen)) for chosen in slices])

    def forward(self, features: Features | States, queries: list[Query], texts: list[str]) -> tuple[Tensor, Encoded]:
        """Mean cross-entropy of the reference texts and their end symbols, and the encoded batch."""
        encoded = self.encode(features)
        return self._judge(encoded, queries, texts)[0].loss, encoded

    def answer_logits(
        self, features: Features | States, queries: list[Query], texts: list[str]
    ) -> tuple[Tensor, Tensor, Encoded]:
        """As `forward`, and between its two values the logits [answer tokens, vocabulary] of the texts' own tokens."""
        encoded = self.encode(features)
        output, labels = self._judge(encoded, queries, texts)
        return output.loss, output.logits[:, :-1][labels[:, 1:] != IGNORED], encoded

    def answer_lengths(self, texts: list[str]) -> list[int]:
        """How many tokens each text has, its end symbol included."""
        return [len(self.decoder.token_ids(text + self.end_symbol)) for text in texts]

    def _judge(self, encoded: Encoded, queries: list[Query], texts: list[str]) -> tuple[Any, Tensor]:
        """The decoder's output over prompts and answers, and the labels [batch, length] of it."""
        answers = [self.decoder.token_ids(text + self.end_symbol) for text in texts]
        embeds, mask, labels = self._assemble(encoded, queries, answers, left=False)
        return self.decoder.model(inputs_embeds=embeds, attention_mask=mask, labels=labels, use_cache=False), labels

    def prompt_embeds(self, features: Features | Encoded, queries: list[Query]) -> tuple[Tensor, Tensor]:
        """Left-padded decoder input [batch, length, width] and its attention mask, ready for generation."""
        encoded = features if isinstance(features, Encoded) else self.encode(features)
        embeds, mask, _ = self._assemble(encoded, queries, [[] for _ in queries], left=True)
        return embeds, mask

    def answer_embeds(self, features: Features, queries: list[Query], texts: list[str]) -> tuple[Tensor, Tensor]:
        """What the decoder sees in training, answers included: embeddings [batch, length, width] and their mask."""
        answers = [self.decoder.token_ids(text + self.end_symbol) for text in texts]
        embeds, mask, _ = self._assemble(self.encode(features), queries, answers, left=False)
        return embeds, mask

    def prompt_heads(self, queries: list[Query]) -> list[list[int]]:
        """Token ids before the audio, of each row."""
        bos = self.decoder.tokenizer.bos_token_id
        texts = [wrap(self.recipe.prompts, query)[0] for query in queries]
        known = {text: ([] if bos is None else [bos]) + self.decoder.token_ids(text) for text in set(texts)}
        return [known[text] for text in texts]

    def decoding_options(self, settings: Generate) -> DecodingOptions:
        """When an answer ends, what its tokens are penalized for, and what they are drawn from."""
        tokenizer = self.decoder.tokenizer
        end_ids = {tokenizer.eos_token_id, *self._single_end_id(), *self.decoder.end_ids} - {None}
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(end_ids)
        drawn = Sampling(settings.temperature, settings.top_k, settings.top_p) if settings.sample else None
        return DecodingOptions(settings.max_new_tokens, tuple(sorted(end_ids)), pad, settings.repetition_penalty, drawn)

    def settings_for(self, task: str) -> Generate:
        """How the recipe has answers to one task found."""
        return self.recipe.generate.for_task(task)

    def generate(
        self, features: Features | Encoded, queries: list[Query], settings: Generate | None = None
    ) -> list[str]:
        """The texts of `generate_answers`."""
        return [answer.text for answer in self.generate_answers(features, queries, settings)]

    @torch.inference_mode()
    def generate_answers(
        self,
        features: Features | Encoded,
        queries: list[Query],
        settings: Generate | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> list[Answer]:
        """What is said of each clip up to the end symbol; other special tokens stay as text, as the organisers do it.

        Args:
            features: of a batch of clips; or what `encode` made of them, if more is to be asked of the same clips.
            queries: one a clip.
            settings: the recipe's if not given; either way those of `settings.tasks` hold for the clips of their task.
            on_text: of a single query, called with the text so far after every token. A search by transformers, of
                several beams for example, never calls it; the loop guard's second search begins anew.
        """
        settings = settings or self.recipe.generate
        encoded = features if isinstance(features, Encoded) else self.encode(features)
        of_task = {task: settings.for_task(task) for task in dict.fromkeys(query.task for query in queries)}
        answers: dict[int, Answer] = {}
        left = list(range(len(queries)))
        while left:  # rows whose tasks share all settings go together
            own = of_task[queries[left[0]].task]
            rows = [row for row in left if of_task[queries[row].task] == own]
            left = [row for row in left if row not in rows]
            part = encoded if len(rows) == len(queries) else encoded.rows(rows)
            hook = on_text if len(queries) == 1 else None
            answers |= zip(rows, self._answer(part, [queries[row] for row in rows], own, hook), strict=True)
        return [answers[row] for row in range(len(queries))]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the checkpoint folder; see `nota_cli.models.checkpoint`."""
        from nota_cli.models.checkpoint import save_checkpoint

        save_checkpoint(self, Path(folder))

    def _answer(
        self, encoded: Encoded, queries: list[Query], settings: Generate, on_text: Callable[[str], None] | None
    ) -> list[Answer]:
        """Answers found in one way, loops minded as the settings say."""

        def again(rows: list[int], stricter: Generate) -> list[Answer]:
            return self._search(encoded.rows(rows), [queries[row] for row in rows], stricter, on_text)

        return guarded(self._search(encoded, queries, settings, on_text), settings, again)

    def _search(
        self, encoded: Encoded, queries: list[Query], settings: Generate, on_text: Callable[[str], None] | None
    ) -> list[Answer]:
        embeds, mask = self.prompt_embeds(encoded, queries)
        options = self.decoding_options(settings)
        end_ids = set(options.end_ids)

        def on_token(ids: list[int]) -> None:
            if on_text is not None:
                on_text(self._decode_answer(ids, end_ids).text)

        seeds = row_seeds(settings.seed, queries) if settings.sample else []
        own = settings.beams == 1 and settings.decoding == "auto"
        if own and self.greedy.supports(mask.size(1) + options.max_new_tokens):
            stream = None if on_text is None else on_token
            ids = self.greedy.generate(embeds, mask, options, self.prompt_heads(queries), seeds, stream)
        else:
            ids = self._plain_ids(embeds, mask, options, settings, seeds)
        return [self._decode_answer(row, end_ids) for row in ids.tolist()]

    def _plain_ids(
        self, embeds: Tensor, mask: Tensor, options: DecodingOptions, settings: Generate, seeds: Sequence[int]
    ) -> Tensor:
        """What transformers' own search finds `[batch, tokens]`."""
        # Asked for by name, it takes a row's padding for generated tokens and spares as many of those (5.23).
        penalty = options.repetition_penalty
        processors: list[LogitsProcessor] = [] if penalty == 1.0 else [RepetitionPenaltyLogitsProcessor(penalty)]
        if options.sampling is not None:
            processors.append(DrawnTokens(options.sampling, seeds))
        return self.decoder.model.generate(
            inputs_embeds=embeds,
            attention_mask=mask,
            max_new_tokens=options.max_new_tokens,
            num_beams=settings.beams,
            do_sample=False,
            repetition_penalty=1.0,
            logits_processor=LogitsProcessorList(processors),
            length_penalty=settings.length_penalty,
            bos_token_id=self.decoder.tokenizer.bos_token_id,
            eos_token_id=list(options.end_ids),
            pad_token_id=options.pad_id,
        )

    def _decode_answer(self, ids: list[int], end_ids: set[int]) -> Answer:
        end = next((index for index, token in enumerate(ids) if token in end_ids), len(ids))
        text = str(self.decoder.tokenizer.decode(ids[:end])).split(self.end_symbol)[0].strip()
        return Answer(text, tokens=min(end + 1, len(ids)))

    def _single_end_id(self) -> list[int]:
        ids = self.decoder.token_ids(self.end_symbol)
        return ids if len(ids) == 1 else []

    def _sound_mask(self, mask: Tensor, queries: list[Query]) -> Tensor:
        """Of a batch's embeddings the ones that each prompt takes: windows, or the summary before them."""
        count = self.recipe.connector.summary
        if not count:
            return mask
        is_summary = torch.arange(mask.size(1), device=mask.device) < count
        asked = [wants_summary(self.recipe.prompts, query) for query in queries]
        return mask & (is_summary == torch.tensor(asked, device=mask.device).unsqueeze(1))

    def _assemble(
        self, encoded: Encoded, queries: list[Query], answers: list[list[int]], *, left: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """BOS, prompt, audio, prompt, answer for each row, padded to the longest on one side.

        Returns:
            Embeddings [batch, length, width], attention mask and labels [batch, length].
        """
        heads = self.prompt_heads(queries)
        ends = [wrap(self.recipe.prompts, query)[1] for query in queries]
        known = {text: self.decoder.token_ids(text) for text in set(ends)}
        tails = [known[text] for text in ends]
        sound_mask = self._sound_mask(encoded.mask, queries)
        sounds = sound_mask.sum(-1).tolist()
        lengths = [len(h) + n + len(t) + len(a) for h, n, t, a in zip(heads, sounds, tails, answers, strict=True)]
        length = max(lengths)
        ids = np.zeros((len(queries), length), dtype=np.int64)
        mask = np.zeros_like(ids)
        audio = np.zeros(ids.shape, dtype=bool)
        labels = np.full_like(ids, IGNORED)
        for row, (head, sound, tail, answer) in enumerate(zip(heads, sounds, tails, answers, strict=True)):
            start = length - lengths[row] if left else 0
            middle = start + len(head)
            end = start + lengths[row]
            ids[row, start:middle] = head
            audio[row, middle : middle + sound] = True
            ids[row, middle + sound : end] = [*tail, *answer]
            mask[row, start:end] = 1
            labels[row, end - len(answer) : end] = answer
        # Whole batches at a time: on a GPU a copy for each row costs more than the decoder's own work.
        device = encoded.embeds.device
        real = torch.from_numpy(mask).to(device)
        text = self.decoder.embed(torch.from_numpy(ids).to(device))
        states = (encoded.embeds * self.decoder.audio_scale)[sound_mask].to(text.dtype)
        embeds = text.masked_scatter(torch.from_numpy(audio).to(device).unsqueeze(-1), states)
        embeds = embeds.masked_fill(real.unsqueeze(-1) == 0, 0.0)
        return embeds, real, torch.from_numpy(labels).to(device)
