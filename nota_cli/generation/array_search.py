"""Finding an answer in numpy: greedy, drawn, and beam search equal to transformers' (5.24, `early_stopping` false)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from nota_cli.generation.draws import perturbed
from nota_cli.generation.options import DecodingOptions

Array = np.ndarray[Any, Any]

NEVER = np.float32(-1e9)  # a score that no answer has


class Decoder(Protocol):
    """A decoder that holds the keys and values of a batch."""

    def step(self, tokens: Array) -> Array:
        """One token more in every row: int64 `[batch]` to logits `[batch, vocabulary]`."""

    def choose(self, rows: Array) -> None:
        """Go on with these rows of the batch, in this order; a row may come several times."""


def search_one(
    decoder: Decoder,
    logits: Array,
    options: DecodingOptions,
    seeds: Sequence[int] = (),
    on_token: Callable[[list[int]], None] | None = None,
) -> list[list[int]]:
    """The likeliest token, or a drawn one, one after the other.

    Args:
        decoder: after the prompts.
        logits: of the prompts' last places, `[batch, vocabulary]`.
        options: when to stop, penalties, draws.
        seeds: one a row, where tokens are drawn (`nota_cli.generation.draws.row_seeds`).
        on_token: called after every token with the first row's ids so far; what it raises ends the search.

    Returns:
        Token ids of each row, its end included.
    """
    answers: list[list[int]] = [[] for _ in range(len(logits))]
    rows: Array = np.arange(len(logits))
    row_seeds = np.array(seeds, dtype=np.int64)
    for step in range(options.max_new_tokens):
        scores = _penalized(logits, [answers[row] for row in rows], options.repetition_penalty)
        if options.sampling is not None:
            scores = perturbed(scores, row_seeds[rows], step, options.sampling)
        tokens = scores.argmax(axis=1)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            answers[row].append(token)
        if on_token is not None:
            on_token(answers[0])
        going_on = ~np.isin(tokens, options.end_ids)
        if step + 1 == options.max_new_tokens or not going_on.any():
            break
        if not going_on.all():
            decoder.choose(np.flatnonzero(going_on))
            rows = rows[going_on]
        logits = decoder.step(tokens[going_on])
    return answers


@dataclass
class _Row:
    """Beams of one clip: those that go on, and the best that have ended, likeliest first."""

    scores: Array
    running: list[list[int]]
    ended: list[tuple[np.float32, list[int]]] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)

    def advance(self, log_probs: Array, options: DecodingOptions, length_penalty: float) -> bool:
        """Take every beam one token further; returns whether the row is to go on.

        Args:
            log_probs: `[beams, vocabulary]`.
            options: when an answer ends.
            length_penalty: power of its length by which a finished answer's score is divided.
        """
        beams, vocabulary = log_probs.shape
        length = len(self.running[0]) + 1
        wanted = min(max(2, 1 + len(options.end_ids)) * beams, beams * vocabulary)
        totals = (log_probs + self.scores[:, None]).ravel()
        best = _largest(totals, wanted)
        last = length >= options.max_new_tokens
        parents, tokens = best // vocabulary, best % vocabulary
        ends = np.isin(tokens, options.end_ids) | last
        divisor = np.float32(float(length) ** length_penalty)
        for beam in np.flatnonzero(ends[:beams]):
            ids = [*self.running[parents[beam]], int(tokens[beam])]
            self.ended.append((totals[best[beam]] / divisor, ids))
        self.ended = sorted(self.ended, key=lambda each: -each[0])[:beams]  # stable: the earlier of two equals
        going_on = np.flatnonzero(~ends)[:beams]
        if last or len(going_on) < beams:
            return False
        self.parents = parents[going_on].tolist()
        self.running = [[*self.running[parents[beam]], int(tokens[beam])] for beam in going_on]
        self.scores = totals[best[going_on]]
        return len(self.ended) < beams or bool(self.scores[0] / divisor > self.ended[-1][0])


def beam_search(
    decoder: Decoder, logits: Array, options: DecodingOptions, beams: int, length_penalty: float
) -> list[list[int]]:
    """The best of several answers kept side by side.

    Args:
        decoder, logits, options: as in `search_one`; of the options' sampling nothing is used.
        beams: answers that are kept.
        length_penalty: power of its length by which a finished answer's score is divided.

    Returns:
        Token ids of each row, its end included.
    """
    first = np.full(beams, NEVER, dtype=np.float32)
    first[0] = 0.0
    rows = [_Row(first, [[] for _ in range(beams)]) for _ in range(len(logits))]
    going_on = list(range(len(rows)))
    decoder.choose(np.repeat(np.arange(len(rows)), beams))
    logits = np.repeat(logits, beams, axis=0)
    while going_on:
        histories = [ids for row in going_on for ids in rows[row].running]
        log_probs = _penalized(_log_softmax(logits), histories, options.repetition_penalty)
        left, chosen = [], list[int]()
        for index, row in enumerate(going_on):
            if rows[row].advance(log_probs[index * beams : (index + 1) * beams], options, length_penalty):
                left.append(row)
                chosen += [index * beams + parent for parent in rows[row].parents]
        going_on = left
        if going_on:
            decoder.choose(np.array(chosen))
            logits = decoder.step(np.array([ids[-1] for row in going_on for ids in rows[row].running]))
    return [row.ended[0][1] for row in rows]


def _largest(values: Array, count: int) -> Array:
    """Places of the largest values, the largest first, of equals the first."""
    indices = np.sort(np.argpartition(values, len(values) - count)[len(values) - count :])
    ordered: Array = indices[np.argsort(-values[indices], kind="stable")]
    return ordered


def _log_softmax(logits: Array) -> Array:
    shifted = logits.astype(np.float32) - logits.max(axis=1, keepdims=True)
    log_probs: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_probs


def _penalized(scores: Array, generated: Sequence[list[int]], penalty: float) -> Array:
    """Scores with those of tokens that a row has generated already made worse (Keskar et al. 2019)."""
    if penalty == 1.0:
        return scores
    scores = scores.astype(np.float32)
    for row, ids in zip(scores, generated, strict=True):
        written = list(dict.fromkeys(ids))
        row[written] = np.where(
            row[written] < 0, row[written] * np.float32(penalty), row[written] / np.float32(penalty)
        )
    return scores
