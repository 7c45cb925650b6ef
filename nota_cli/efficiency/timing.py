"""Clocks round encoders, prefill and decode steps, at batch 1."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import numpy as np

from nota_cli.errors import UsageError
from nota_cli.features.constants import SAMPLE_RATE
from nota_cli.models.families.base import AudioModel, Device
from nota_cli.prompts import Query
from nota_cli.recipe.schema import Recipe

Protocol = Literal["synced", "organisers"]
PROTOCOLS: dict[Protocol, tuple[int, int]] = {"synced": (3, 20), "organisers": (10, 100)}
"""The ways to measure, with the rounds that each warms up and counts unless told otherwise."""
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

    def __init__(self, device: Device) -> None:
        self.device = device
        self.cuda = device.type == "cuda"

    def now(self) -> float:
        """Seconds, read when the device has nothing left to do."""
        if self.cuda:
            import torch

            torch.cuda.synchronize(str(self.device))
        return time.perf_counter()

    def mark(self) -> Any:
        """A moment in the device's own course of work."""
        if not self.cuda:
            return time.perf_counter()
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(str(self.device)))
        return event

    @staticmethod
    def between(first: Any, last: Any) -> float:
        """Seconds from one mark to a later one; the device must have passed both."""
        seconds: float = last - first if isinstance(first, float) else first.elapsed_time(last) / 1000
        return seconds


class Round:
    """One clip of noise, prepared to be run through a model again and again.

    Attributes:
        runtime: what computes.
    """

    def __init__(self, model: AudioModel, device: Device, settings: Settings, times: Times) -> None:
        self.settings, self.times, self.clock = settings, times, Clock(device)
        self.preprocessor = model.preprocessor(device)
        samples = int(settings.audio_seconds * SAMPLE_RATE)
        self.noise = np.random.default_rng(0).standard_normal(samples).astype(np.float32) * 0.1
        self.query = _query(model)
        self.runtime = model.runtime(settings.tokens + BEFORE_STEPS)
        self.organisers = settings.protocol == "organisers"
        self.features: Callable[[], Any] = lambda: self.preprocessor.features([self.noise])
        if self.organisers:
            self.features = organisers_features(model, self.runtime, self.preprocessor, device, self.noise)

    def run(self, steps: int, count: bool = True) -> tuple[float, float]:
        """Features, first token and some tokens more.

        Args:
            steps: decode steps behind the first.
            count: put the times on record.

        Returns:
            Seconds to the first token, and seconds of all steps.
        """
        clock, times = self.clock, self.times if count else Times()
        runtime = self.runtime
        self.times.running = "features"
        start, start_mark = clock.now(), clock.mark()
        with runtime.watch(clock.mark, self._is_running) as spans:
            features = self.features()
            ready = time.perf_counter() if self.organisers else clock.now()
            first_mark = clock.mark()
            runtime.prefill(runtime.prompt(features, self.query), self.query)
            last_mark = clock.mark()
            end = time.perf_counter() if self.organisers else clock.now()
        taken = [end]
        for _ in range(1 if self.organisers else steps + 1):
            runtime.step()
            taken.append(time.perf_counter() if self.organisers else clock.now())
        self.times.running = ""
        clock.now()
        lasting = [later - sooner for sooner, later in zip(taken, taken[1:], strict=False)]
        parts: dict[str, float] = {}
        for name, before, after in spans:
            parts[name] = parts.get(name, 0.0) + clock.between(before, after)
        processor = parts.pop("features", 0.0)
        for name, seconds in parts.items():
            times.add(name, seconds)
        times.add("prefill", clock.between(first_mark, last_mark) - sum(parts.values()) - processor)
        if self.organisers:
            times.add("filter_bank", clock.between(start_mark, first_mark))
            times.add("ttft", end - start)
            times.add("tpot", *lasting)
        else:
            times.add("features", ready - start + processor)
            times.add("ttft_from_features", end - ready - processor)
            times.add("ttft_from_waveform", end - start)
            times.add("first_step", lasting[0])
            times.add("tpot", *lasting[1:])
        self.times.cache_bytes = max(self.times.cache_bytes, runtime.cache_bytes())
        return end - start, sum(lasting)

    def prefill(self) -> None:
        """The way to the first token, nothing timed."""
        features = self.preprocessor.features([self.noise])
        self.runtime.prefill(self.runtime.prompt(features, self.query), self.query)

    def _is_running(self, part: str) -> None:
        self.times.running = part


def organisers_features(
    model: Any, runtime: Any, preprocessor: Any, device: Any, noise: np.ndarray[Any, Any]
) -> Callable[[], Any]:
    """Features as the organisers' protocol makes them: Whisper's log-mel now, the audio encoder's bank at each call.

    Float32 encoders run under autocast on CUDA then, as in their code.

    Raises:
        UsageError: the model is not of the kind that they measure.
    """
    import torch

    from nota_cli.features.batch import Features, front_end_of

    if not isinstance(getattr(model, "recipe", None), Recipe) or getattr(runtime, "name", "") != "torch":
        raise UsageError("the organisers' protocol measures SALMONN's family on torch alone; use --protocol synced")
    runtime.autocast = device.type == "cuda" and model.recipe.speech_encoder.dtype == "float32"
    log_mel = replace(preprocessor, front_end=None).features([noise]).to(device)
    waveform = torch.from_numpy(noise).to(device)

    def make() -> Features:
        if preprocessor.front_end is None:
            return cast(Features, log_mel)
        bank = front_end_of(preprocessor.front_end)(waveform)[None]
        lengths = torch.tensor([bank.size(1)], device=bank.device)
        return Features(log_mel.log_mel, log_mel.log_mel_lengths, bank, lengths)

    return make


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


def _query(model: AudioModel) -> Query:
    tasks = model.recipe.prompts.tasks
    return Query("asr" if "asr" in tasks else next(iter(tasks)), "What is heard?")


def _summary(values: list[float]) -> dict[str, float]:
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9]).tolist()
    return {"median": middle, "p10": low, "p90": high, "mean": float(np.mean(values)), "count": len(values)}
