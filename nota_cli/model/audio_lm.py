"""The audio language model: encoders, connector and decoder in one piece."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from nota_cli.data.inputs import Features
from nota_cli.model.connector import Connector
from nota_cli.model.decoder import Decoder
from nota_cli.model.decoding import GreedyDecoder, Rules
from nota_cli.prompts import Query, wrap
from nota_cli.recipe.schema import Generate, Recipe

IGNORED = -100  # a label that the loss leaves out


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


class AudioLM(nn.Module):
    """Sound in, text out.

    Args:
        recipe: the system's recipe; prompts and audio settings are read from it.
        speech_encoder: features to states (see `nota_cli.model.whisper`).
        audio_encoder: the same for other sounds, or None.
        decoder: the language model.
    """

    def __init__(self, recipe: Recipe, speech_encoder: nn.Module, audio_encoder: nn.Module | None, decoder: Decoder):
        super().__init__()
        self.recipe = recipe
        self.speech_encoder = speech_encoder
        self.audio_encoder = audio_encoder
        self.decoder = decoder
        audio_width = None if audio_encoder is None else audio_encoder.output_dim
        self.connector = Connector(recipe.connector, speech_encoder.output_dim, audio_width, decoder.width)
        self.greedy = GreedyDecoder(decoder)

    @property
    def device(self) -> torch.device:
        """Where the model's weights lie."""
        return self.connector.speech_query_tokens.device

    @property
    def end_symbol(self) -> str:
        """The text that ends an answer."""
        return self.recipe.prompts.end_symbol or self.decoder.tokenizer.eos_token

    def train(self, mode: bool = True) -> "AudioLM":
        """Training or evaluation mode, as always; what greedy decoding keeps between batches is given up."""
        self.greedy.forget()
        return super().train(mode)

    def encode(self, features: Features) -> Encoded:
        """Features of a batch of clips to embeddings of the decoder's width (not yet scaled for it)."""
        features = features.to(self.device)
        clip = self.recipe.audio.pad == "clip"
        speech, speech_mask = self.speech_encoder(features.log_mel, features.log_mel_lengths if clip else None)
        audio, audio_mask = None, None
        if self.audio_encoder is not None:
            audio, audio_mask = self.audio_encoder(features.fbank, features.fbank_lengths)
        embeds, mask = self.connector(speech, speech_mask if clip else None, audio, audio_mask)
        return Encoded(embeds, mask, speech, speech_mask, audio, audio_mask)

    def forward(self, features: Features, queries: list[Query], texts: list[str]) -> tuple[Tensor, Encoded]:
        """Mean cross-entropy of the reference texts and their end symbols, and the encoded batch."""
        encoded = self.encode(features)
        answers = [self.decoder.token_ids(text + self.end_symbol) for text in texts]
        embeds, mask, labels = self._assemble(encoded, queries, answers, left=False)
        loss = self.decoder.model(inputs_embeds=embeds, attention_mask=mask, labels=labels, use_cache=False).loss
        return loss, encoded

    def prompt_embeds(self, features: Features, queries: list[Query]) -> tuple[Tensor, Tensor]:
        """Left-padded decoder input [batch, length, width] and its attention mask, ready for generation."""
        embeds, mask, _ = self._assemble(self.encode(features), queries, [[] for _ in queries], left=True)
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

    def rules(self, settings: Generate) -> Rules:
        """When an answer ends, and what its tokens are punished for."""
        tokenizer = self.decoder.tokenizer
        end_ids = {tokenizer.eos_token_id, *self._single_end_id(), *self.decoder.end_ids} - {None}
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(end_ids)
        return Rules(settings.max_new_tokens, tuple(sorted(end_ids)), pad, settings.repetition_penalty)

    @torch.inference_mode()
    def generate(self, features: Features, queries: list[Query], settings: Generate | None = None) -> list[str]:
        """The text of each clip up to the end symbol; any other special token is kept as text, as the organisers do."""
        settings = settings or self.recipe.generate
        embeds, mask = self.prompt_embeds(features, queries)
        rules = self.rules(settings)
        own = settings.beams == 1 and settings.decoding == "auto"
        if own and self.greedy.takes(mask.size(1) + rules.max_new_tokens):
            ids = self.greedy.generate(embeds, mask, rules, self.prompt_heads(queries))
        else:
            ids = self._plain_ids(embeds, mask, rules, settings)
        return [self._text(row, set(rules.end_ids)) for row in ids.tolist()]

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu") -> "AudioLM":
        """Load a checkpoint folder written by `save_pretrained` or `nota train`."""
        from nota_cli.model.build import build
        from nota_cli.recipe.load import load_recipe

        recipe = load_recipe(str(folder))
        return build(recipe.model_copy(update={"checkpoint": str(folder)}), device=device)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the checkpoint folder; see `nota_cli.model.checkpoint`."""
        from nota_cli.model.checkpoint import save_checkpoint

        save_checkpoint(self, Path(folder))

    def _plain_ids(self, embeds: Tensor, mask: Tensor, rules: Rules, settings: Generate) -> Tensor:
        """What transformers' own search finds `[batch, tokens]`."""
        # Asked for by name, it takes a row's padding for generated tokens and spares as many of those (5.23).
        penalty = rules.repetition_penalty
        processors = [] if penalty == 1.0 else [RepetitionPenaltyLogitsProcessor(penalty)]
        return self.decoder.model.generate(
            inputs_embeds=embeds,
            attention_mask=mask,
            max_new_tokens=rules.max_new_tokens,
            num_beams=settings.beams,
            do_sample=False,
            repetition_penalty=1.0,
            logits_processor=LogitsProcessorList(processors),
            length_penalty=settings.length_penalty,
            bos_token_id=self.decoder.tokenizer.bos_token_id,
            eos_token_id=list(rules.end_ids),
            pad_token_id=rules.pad_id,
        )

    def _text(self, ids: list[int], end_ids: set[int]) -> str:
        end = next((place for place, token in enumerate(ids) if token in end_ids), len(ids))
        return self.decoder.tokenizer.decode(ids[:end]).split(self.end_symbol)[0].strip()

    def _single_end_id(self) -> list[int]:
        ids = self.decoder.token_ids(self.end_symbol)
        return ids if len(ids) == 1 else []

    def _assemble(
        self, encoded: Encoded, queries: list[Query], answers: list[list[int]], *, left: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """BOS, prompt, audio, prompt, answer for each row, padded to the longest on one side.

        Returns:
            Embeddings [batch, length, width], attention mask and labels [batch, length].
        """
        audio = encoded.embeds * self.decoder.audio_scale
        rows, labels = [], []
        heads = self.prompt_heads(queries)
        for index, (query, head, answer) in enumerate(zip(queries, heads, answers, strict=True)):
            _, after = wrap(self.recipe.prompts, query)
            tail = self.decoder.token_ids(after) + answer
            sound = audio[index, encoded.mask[index]]
            ids = torch.tensor(head + tail, device=audio.device)
            text = self.decoder.embed(ids)
            rows.append(torch.cat([text[: len(head)], sound.to(text.dtype), text[len(head) :]]))
            labels.append([IGNORED] * (len(rows[-1]) - len(answer)) + answer)
        length = max(len(row) for row in rows)
        embeds = rows[0].new_zeros(len(rows), length, rows[0].size(-1))
        mask = torch.zeros(len(rows), length, dtype=torch.long, device=audio.device)
        targets = torch.full((len(rows), length), IGNORED, device=audio.device)
        for index, row in enumerate(rows):
            place = slice(length - len(row), length) if left else slice(0, len(row))
            embeds[index, place] = row
            mask[index, place] = 1
            targets[index, place] = torch.tensor(labels[index], device=audio.device)
        return embeds, mask, targets
