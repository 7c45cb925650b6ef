"""Clocks round encoders, prefill and decode steps, at batch 1."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from nota_cli.features.batch import FRONT_ENDS, Features
from nota_cli.features.constants import SAMPLE_RATE
from nota_cli.generation.static_decoder import StaticCacheDecoder
from nota_cli.inference.engine import feature_spec
from nota_cli.models.families.salmonn import AudioLM
from nota_cli.prompts import Query

Protocol = Literal["synced", "organisers"]
PROTOCOLS: dict[Protocol, tuple[int, int]] = {"synced": (3, 20), "organisers": (10, 100)}
"""The ways to measure, with the rounds that each warms up and counts unless told otherwise."""
PARTS = ("speech_encoder", "audio_encoder", "connector")
LEAST_ROUNDS = 3  # counted although the time is over
BEFORE_STEPS = 2  # tokens: the one of the prefill, and the first step's
FEW_STEPS = 2  # of a round that warms up, or that comes when decode steps have taken their time
WARM_UP_SHARE = 0.25  # of the time for counted rounds


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        protocol: `synced` reads clocks only where the device has finished, and takes `tokens` decode steps a round.
            `organisers` repeats the competition's: one decode step, no waiting between it and the first token,
            Whisper's log-mel before the clock starts, the audio encoder's filter bank behind it.
        audio_seconds: length of the clip, in seconds; it is random noise.
        tokens: decode steps a round, one more goes before them.
        rounds: counted rounds; None takes the protocol's.
        warm_up: rounds before them; None takes the protocol's.
        seconds: when prefills have taken so long no more rounds begin, and when decode steps have, the rounds to come
            take two; three rounds are always counted.
    """

    protocol: Protocol = "synced"
    audio_seconds: float = 10.0
    tokens: int = 32
    rounds: int | None = None
    warm_up: int | None = None
    seconds: float = 20.0

    @property
    def counted(self) -> int:
        """Rounds to count."""
        return PROTOCOLS[self.protocol][1] if self.rounds is None else self.rounds

    @property
    def warming(self) -> int:
        """Rounds to warm up."""
        return PROTOCOLS[self.protocol][0] if self.warm_up is None else self.warm_up


@dataclass
class Times:
    """Seconds of every counted round (of every step, under `tpot`), by what was timed, and the KV cache's bytes."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    cache_bytes: int = 0
    running: str = ""

    def add(self, name: str, *values: float) -> None:
        """Note what took how long."""
        self.seconds.setdefault(name, []).extend(values)

    def summary(self) -> dict[str, dict[str, float]]:
        """Median, tenth and ninetieth percentile, mean and number of each."""
        return {name: _summary(values) for name, values in self.seconds.items() if values}


class Clock:
    """Time on a device. `now` waits for it; a `mark` does not, and tells on CUDA when the device came by."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cuda = device.type == "cuda"

    def now(self) -> float:
        """Seconds, read when the device has nothing left to do."""
        if self.cuda:
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def mark(self) -> Any:
        """A moment in the device's own course of work."""
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    @staticmethod
    def between(first: Any, last: Any) -> float:
        """Seconds from one mark to a later one; the device must have passed both."""
        return last - first if isinstance(first, float) else first.elapsed_time(last) / 1000


class Greedy:
    """Greedy decoding of one clip as `nota infer` does it with one beam, by the token, not looking for its end."""

    def __init__(self, model: AudioLM, tokens: int) -> None:
        self._model, self._decoder = model, model.decoder.model
        self._fixed = StaticCacheDecoder(model.decoder) if model.recipe.generate.decoding == "auto" else None
        self._settings = model.recipe.generate.model_copy(update={"max_new_tokens": tokens})
        self._mask = self._token = torch.empty(0)
        self._cache: Any = None

    @property
    def decoding(self) -> str:
        """How it decodes, in words."""
        return "plain" if self._fixed is None else self._fixed.kind

    def first(self, embeds: Tensor, mask: Tensor, query: Query) -> None:
        """Prefill, and the first token."""
        if self._fixed is not None and not self._fixed.supports(mask.size(1) + self._settings.max_new_tokens):
            self._fixed = None
        if self._fixed is not None:
            self._fixed.begin(
                embeds, mask, self._model.decoding_options(self._settings), self._model.prompt_heads([query])
            )
            return
        output = self._decoder(inputs_embeds=embeds, attention_mask=mask, use_cache=True, logits_to_keep=1)
        self._mask, self._cache = mask, output.past_key_values
        self._token = output.logits[:, -1:].argmax(-1)

    def step(self) -> None:
        """One token more."""
        if self._fixed is not None:
            return self._fixed.step()
        self._mask = torch.cat([self._mask, self._mask.new_ones(1, 1)], dim=1)
        output = self._decoder(
            input_ids=self._token, attention_mask=self._mask, past_key_values=self._cache, use_cache=True
        )
        self._cache = output.past_key_values
        self._token = output.logits[:, -1:].argmax(-1)

    def cache_bytes(self) -> int:
        """Bytes of keys and values."""
        if self._fixed is not None:
            return self._fixed.cache_bytes()
        pairs = [(layer.keys, layer.values) for layer in getattr(self._cache, "layers", [])]
        return sum(tensor.nbytes for pair in pairs for tensor in pair if tensor is not None)


@contextmanager
def watch_parts(
    model: AudioLM, read: Callable[[], Any], times: Times | None = None
) -> Iterator[list[tuple[str, Any, Any]]]:
    """Collect (part, reading before, reading after) whenever an encoder or the connector runs."""
    spans: list[tuple[str, Any, Any]] = []
    begun: list[Any] = []
    hooks = []

    def before(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            if times is not None:
                times.running = name
            begun.append(read())

        return hook

    def after(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            spans.append((name, begun.pop(), read()))
            if times is not None:
                times.running = "decoder"

        return hook

    for name in PARTS:
        part = getattr(model, name, None)
        if part is not None:
            hooks += [part.register_forward_pre_hook(before(name)), part.register_forward_hook(after(name))]
    try:
        yield spans
    finally:
        for hook in hooks:
            hook.remove()


class Round:
    """One clip of noise, prepared to be run through a model again and again.

    Attributes:
        autocast: whether the encoders run in float16 under autocast: float32 ones, under the organisers' protocol, on
            CUDA, as in their code.
    """

    def __init__(self, model: AudioLM, device: torch.device, settings: Settings, times: Times) -> None:
        self.model, self.settings, self.times, self.clock = model, settings, times, Clock(device)
        self.spec = feature_spec(model, device)
        samples = int(settings.audio_seconds * SAMPLE_RATE)
        self.noise = np.random.default_rng(0).standard_normal(samples).astype(np.float32) * 0.1
        self.query = _query(model)
        self.greedy = Greedy(model, settings.tokens + BEFORE_STEPS)
        self.organisers = settings.protocol == "organisers"
        self.autocast = self.organisers and device.type == "cuda" and model.recipe.speech_encoder.dtype == "float32"
        if self.organisers:
            self.log_mel = replace(self.spec, front_end=None).features([self.noise]).to(device)
            self.waveform = torch.from_numpy(self.noise).to(device)

    @torch.inference_mode()
    def run(self, steps: int, count: bool = True) -> tuple[float, float]:
        """Features, first token and some tokens more.

        Args:
            steps: decode steps behind the first.
            count: put the times on record.

        Returns:
            Seconds to the first token, and seconds of all steps.
        """
        clock, times = self.clock, self.times if count else Times()
        greedy = self.greedy
        self.times.running = "features"
        start, start_mark = clock.now(), clock.mark()
        with watch_parts(self.model, clock.mark, self.times) as spans:
            features = self._filter_bank() if self.organisers else self.spec.features([self.noise])
            ready = time.perf_counter() if self.organisers else clock.now()
            first_mark = clock.mark()
            greedy.first(*self.prompt(features), self.query)
            last_mark = clock.mark()
            end = time.perf_counter() if self.organisers else clock.now()
        taken = [end]
        for _ in range(1 if self.organisers else steps + 1):
            greedy.step()
            taken.append(time.perf_counter() if self.organisers else clock.now())
        self.times.running = ""
        clock.now()
        lasting = [later - sooner for sooner, later in zip(taken, taken[1:], strict=False)]
        parts: dict[str, float] = {}
        for name, before, after in spans:
            parts[name] = parts.get(name, 0.0) + clock.between(before, after)
        for name, seconds in parts.items():
            times.add(name, seconds)
        times.add("prefill", clock.between(first_mark, last_mark) - sum(parts.values()))
        if self.organisers:
            times.add("filter_bank", clock.between(start_mark, first_mark))
            times.add("ttft", end - start)
            times.add("tpot", *lasting)
        else:
            times.add("features", ready - start)
            times.add("ttft_from_features", end - ready)
            times.add("ttft_from_waveform", end - start)
            times.add("first_step", lasting[0])
            times.add("tpot", *lasting[1:])
        self.times.cache_bytes = max(self.times.cache_bytes, greedy.cache_bytes())
        return end - start, sum(lasting)

    @torch.inference_mode()
    def prefill(self) -> None:
        """The way to the first token, nothing timed."""
        self.greedy.first(*self.prompt(self.spec.features([self.noise])), self.query)

    def prompt(self, features: Features) -> tuple[Tensor, Tensor]:
        """What the decoder gets to see: embeddings and mask."""
        with torch.autocast("cuda", torch.float16, enabled=self.autocast):
            return self.model.prompt_embeds(features, [self.query])

    def _filter_bank(self) -> Features:
        if self.spec.front_end is None:
            return self.log_mel
        bank = FRONT_ENDS[self.spec.front_end](self.waveform)[None]
        lengths = torch.tensor([bank.size(1)], device=bank.device)
        return Features(self.log_mel.log_mel, self.log_mel.log_mel_lengths, bank, lengths)


def run_rounds(clip: Round, spent: float = 0.0, on_round: Callable[[int, int], None] = lambda done, total: None) -> int:
    """Warm up, then count rounds until there are enough of them or the time is over; returns how many were counted.

    Args:
        clip: what to run.
        spent: seconds that went into warming up already.
        on_round: told how many rounds are done, and of how many.
    """
    settings = clip.settings
    total, begun = settings.warming + settings.counted, time.perf_counter()
    for turn in range(settings.warming):
        if spent + time.perf_counter() - begun > settings.seconds * WARM_UP_SHARE:
            break
        clip.run(FEW_STEPS, count=False)
        on_round(turn + 1, total)
    prefilling = stepping = 0.0
    counted = 0
    while counted < settings.counted and (counted < LEAST_ROUNDS or prefilling < settings.seconds):
        first, steps = clip.run(settings.tokens if stepping < settings.seconds else FEW_STEPS)
        prefilling, stepping, counted = prefilling + first, stepping + steps, counted + 1
        on_round(settings.warming + counted, total)
    on_round(settings.warming + counted, settings.warming + counted)
    return counted


def _query(model: AudioLM) -> Query:
    tasks = model.recipe.prompts.tasks
    return Query("asr" if "asr" in tasks else next(iter(tasks)), "What is heard?")


def _summary(values: list[float]) -> dict[str, float]:
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9]).tolist()
    return {"median": middle, "p10": low, "p90": high, "mean": float(np.mean(values)), "count": len(values)}
