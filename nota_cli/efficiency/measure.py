"""What a recipe costs: bytes by part, peak memory, time to first token, time per output token, and their floors."""

import gc
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from nota_cli.efficiency.memory import Meter, meter
from nota_cli.efficiency.report import compare, show, show_comparison, text_table
from nota_cli.efficiency.timing import PROTOCOLS, Round, Settings, Times, run_rounds
from nota_cli.errors import NotaError
from nota_cli.models.build import build
from nota_cli.models.device import gpu_name
from nota_cli.models.families.base import AudioModel, Device
from nota_cli.models.memory import memory_there, out_of_memory
from nota_cli.models.parts import Part, compute_types
from nota_cli.recipe.load import recipe_hash
from nota_cli.recipe.schema import BaseRecipe
from nota_cli.recipe.section import LoadFormat
from nota_cli.version import versions

__all__ = ["PROTOCOLS", "Settings", "compare", "measure", "measure_model", "show", "show_comparison"]

LIBRARIES = ("torch", "transformers", "peft", "gptqmodel", "bitsandbytes")
OnRound = Callable[[int, int], None]


def measure(
    recipe: BaseRecipe,
    device: str = "cpu",
    audio_seconds: float = 10.0,
    tokens: int = 32,
    rounds: int | None = None,
    load_format: LoadFormat = "auto",
    *,
    settings: Settings | None = None,
    on_round: OnRound = lambda done, total: None,
) -> dict[str, Any]:
    """Build the recipe and measure it at batch 1 on one clip of random noise.

    Args:
        recipe: the system.
        device: "cpu" or a CUDA device.
        audio_seconds: length of the clip, in seconds.
        tokens: decode steps a round.
        rounds: counted rounds; None takes the protocol's.
        load_format: "dummy" measures random weights of the true size.
        settings: everything about how to measure; stands in for the three numbers above.
        on_round: told how many rounds are done, and of how many.

    Returns:
        What `measure_model` returns, with the peak of loading.

    Raises:
        NotaError: the device's memory is too small; the message holds the bytes by part.
    """
    settings = settings or Settings(audio_seconds=audio_seconds, tokens=tokens, rounds=rounds)
    gauge = meter(device)
    before = gauge.now()
    gauge.restart()
    try:
        model = build(recipe, device, "run", load_format=load_format)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        parts = build(recipe, "meta", load_format="dummy").parts()
        raise _too_large(parts, device, gauge, "loading", Times()) from error
    loading = {"before_loading": before, "load_peak": gauge.peak()}
    report = measure_model(model, settings=settings, on_round=on_round, gauge=gauge, loading=loading)
    return {**report, "load_format": load_format}


def measure_model(
    model: AudioModel,
    settings: Settings | None = None,
    *,
    on_round: OnRound = lambda done, total: None,
    gauge: Meter | None = None,
    loading: dict[str, int | None] | None = None,
) -> dict[str, Any]:
    """Measure a model of any family that stands ready.

    The peak of memory is reset before the first round, so that loading does not count; what the clocks do is told at
    `Settings`. The floors are measured last.

    Args:
        model: in evaluation mode.
        settings: how to measure.
        on_round: told how many rounds are done, and of how many.
        gauge: the memory's meter, where one watched the loading.
        loading: bytes before loading and at its peak.

    Returns:
        `seconds`: for each stage median, 10th and 90th percentile, mean and count. The stages are `features`,
        `speech_encoder`, `audio_encoder`, `connector`, `prefill` (prompt, prefill and the first token's id),
        `ttft_from_features`, `ttft_from_waveform`, `first_step` and `tpot` (each further decode step); the organisers'
        protocol has `filter_bank` for the features and `ttft`. `memory_mb` and `memory_is`: in 10^6 bytes, on a CPU
        the resident set of the whole process; `idle` is what stays after a first pass, `activations_and_cache` the
        peak less that (on CUDA less what lay there after loading). `weights_by_type_mb` and `{part}_mb`. `floor`: what
        the hardware allows for the same stages in `seconds`, and what that comes from. The rest are single figures of
        the same.

    Raises:
        NotaError: the device's memory is too small; the message holds what is known so far.
    """
    settings, device = settings or Settings(), model.device
    gauge = gauge or meter(device)
    parts = model.parts()
    times = Times()
    gc.collect()
    after = gauge.now()
    gauge.restart()
    try:
        clip = Round(model, device, settings, times)
        begun = time.perf_counter()
        counts = _operations(model, clip)
        first_peak, idle = gauge.peak(), gauge.now()
        gauge.restart()
        counted = run_rounds(clip, time.perf_counter() - begun, on_round)
        peak = gauge.peak()
        floor = _floor(model, device, counts, clip)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise _too_large(parts, str(device), gauge, times.running or "running", times) from error
    memory = {**(loading or {}), "after_loading": after, "idle": idle, "running_peak": peak}
    if peak is not None and first_peak is not None and after is not None and idle is not None:
        # A first pass brings the code of libraries into a process; on CUDA what it leaves behind is the model's own.
        memory["activations_and_cache"] = peak - (after if device.type == "cuda" else idle)
        memory["running_peak"] = peak = max(peak, first_peak)
    memory["kv_cache"] = times.cache_bytes
    what = gauge.what
    seconds = times.summary()
    if settings.protocol == "organisers":
        peak = max((value for value in (memory.get("load_peak"), peak) if value is not None), default=None)
        what += ", loading included"
    elif device.type == "cuda":
        what += " after loading"
    sizes = {part.name: part.bytes for part in parts}
    return {
        "recipe": model.recipe.name,
        "recipe_hash": recipe_hash(model.recipe),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "protocol": settings.protocol,
        "device": _device_name(str(device)),
        "machine": _machine(str(device)),
        "versions": _versions(),
        "python": platform.python_version(),
        "torch": versions(("torch",)).get("torch"),
        "runtime": clip.runtime.name,
        "kernel": model.kernel,
        "compute": compute_types(parts),
        "decoding": clip.runtime.decoding,
        "audio_seconds": settings.audio_seconds,
        "rounds": counted,
        **{f"{name}_mb": round(size / 1e6, 3) for name, size in sizes.items()},
        "weights_mb": round(sum(sizes.values()) / 1e6, 3),
        "weights_by_type_mb": {part.name: _in_mb(part.by_type) for part in parts},
        "memory_mb": _in_mb(memory),
        "memory_is": gauge.what,
        "peak_memory_mb": None if peak is None else round(peak / 1e6, 1),
        "peak_memory_gib": None if peak is None else round(peak / 2**30, 4),
        "peak_memory_is": what,
        **{f"{name}_s": round(seconds[name]["median"], 6) for name in seconds if name.startswith(("ttft", "tpot"))},
        "seconds": seconds,
        "floor": floor,
    }


def _operations(model: AudioModel, clip: Round) -> dict[str, int]:
    """Operations of each part up to the first token, where torch can count them; the clip runs once either way."""
    if clip.runtime.name != "torch":
        clip.prefill()
        return {}
    from nota_cli.efficiency.floor import operations

    torch_model, runtime = cast(Any, model), cast(Any, clip.runtime)  # what that name promises
    return operations(torch_model, runtime, clip.prefill)


def _floor(model: AudioModel, device: Device, counts: dict[str, int], clip: Round) -> dict[str, Any] | None:
    """The quickest that this hardware could be (`nota_cli.efficiency.floor`); None for runtimes other than torch."""
    if not counts:
        return None
    from nota_cli.efficiency.floor import hardware_floor

    return hardware_floor(model, cast(Any, device), counts, cast(Any, clip.runtime).autocast)


def _too_large(parts: Sequence[Part], device: str, gauge: Meter, stage: str, times: Times) -> NotaError:
    """What is known when memory ran out, as one message."""
    largest = max(parts, key=lambda part: part.bytes)
    rows = [(f"{part.name}, MB", f"{part.bytes / 1e6:,.1f}") for part in parts]
    rows.append(("all weights, MB", f"{sum(part.bytes for part in parts) / 1e6:,.1f}"))
    rows += [(f"{label}, MB", f"{value / 1e6:,.1f}") for label, value in memory_there(device)]
    for label, value in (("in use now, MB", gauge.now()), ("peak, MB", gauge.peak())):
        if value is not None:
            rows.append((label, f"{value / 1e6:,.1f}"))
    for name, summary in times.summary().items():
        rows.append((f"{name}, ms", f"{summary['median'] * 1000:,.1f}"))
    return NotaError(
        f"out of memory on {_device_name(device)} while {stage.replace('_', ' ')}:\n{text_table(rows)}\n"
        f"The largest part is the {largest.name.replace('_', ' ')}. Give it a smaller dtype or quantize it "
        "(nota recipes show), or shorten the clip by --audio-seconds."
    )


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        import torch

        size = torch.cuda.get_device_properties(device).total_memory
        return f"{gpu_name(device)}, {size / 2**30:.0f} GiB"
    return f"cpu, {_threads()} threads"


def _threads() -> int:
    """How many threads compute on the CPU; without torch, as many as there are cores for this process."""
    torch = sys.modules.get("torch")
    return len(os.sched_getaffinity(0)) if torch is None else torch.get_num_threads()


def _machine(device: str) -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    return {"cpu": cpu, "threads": _threads(), "gpu": gpu_name(device), "system": platform.system()}


def _versions() -> dict[str, str]:
    torch = sys.modules.get("torch")
    cuda = {"cuda": torch.version.cuda} if torch is not None and torch.version.cuda else {}
    return versions(LIBRARIES) | cuda


def _in_mb(sizes: Mapping[str, int | None]) -> dict[str, float | None]:
    return {name: None if size is None else round(size / 1e6, 3) for name, size in sizes.items()}
