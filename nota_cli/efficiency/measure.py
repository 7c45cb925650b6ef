"""What a recipe costs: bytes by part, peak memory, time to first token, time per output token, and their floors."""

import gc
import platform
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from nota_cli.efficiency.floor import bandwidth, bytes_per_token, matmul_rate, operations, part_dtype
from nota_cli.efficiency.memory import Meter, meter
from nota_cli.efficiency.report import compare, show, show_comparison, text_table
from nota_cli.efficiency.timing import PARTS, PROTOCOLS, Round, Settings, Times, run_rounds
from nota_cli.errors import NotaError
from nota_cli.models.build import build
from nota_cli.models.families.salmonn import AudioLM
from nota_cli.models.inference_lora import prepare_to_run
from nota_cli.models.inventory import Part, inventory
from nota_cli.models.memory import memory_there, out_of_memory
from nota_cli.recipe.load import recipe_hash
from nota_cli.recipe.schema import LoadFormat, Recipe
from nota_cli.version import versions

__all__ = ["PROTOCOLS", "Settings", "compare", "measure", "measure_model", "show", "show_comparison"]

LIBRARIES = ("torch", "transformers", "peft", "gptqmodel", "bitsandbytes")
OnRound = Callable[[int, int], None]


def measure(
    recipe: Recipe,
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
    place = torch.device(device)
    gauge = meter(place)
    before = gauge.now()
    gauge.restart()
    try:
        model = build(recipe, device, load_format=load_format, lean=True)
        prepare_to_run(model)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        parts = inventory(build(recipe, "meta", load_format="dummy"))
        raise _too_large(parts, place, gauge, "loading", Times()) from error
    loading = {"before_loading": before, "load_peak": gauge.peak()}
    report = measure_model(model, device, settings, on_round=on_round, gauge=gauge, loading=loading)
    return {**report, "load_format": load_format}


def measure_model(
    model: AudioLM,
    device: str = "cpu",
    settings: Settings | None = None,
    *,
    on_round: OnRound = lambda done, total: None,
    gauge: Meter | None = None,
    loading: dict[str, int | None] | None = None,
) -> dict[str, Any]:
    """Measure a model that stands ready, or anything built like an `AudioLM`.

    The peak of memory is reset before the first round, so that loading does not count; what the clocks do is told at
    `Settings`. The floors are measured last.

    Args:
        model: in evaluation mode.
        device: where it lies.
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
    settings, place = settings or Settings(), torch.device(device)
    gauge = gauge or meter(place)
    parts = inventory(model)
    times = Times()
    gc.collect()
    after = gauge.now()
    gauge.restart()
    try:
        clip = Round(model, place, settings, times)
        begun = time.perf_counter()
        counts = operations(model, clip.prefill)
        first_peak, idle = gauge.peak(), gauge.now()
        gauge.restart()
        counted = run_rounds(clip, time.perf_counter() - begun, on_round)
        peak = gauge.peak()
        floor = _floor(model, place, counts, clip.autocast)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise _too_large(parts, place, gauge, times.running or "running", times) from error
    memory = {**(loading or {}), "after_loading": after, "idle": idle, "running_peak": peak}
    if peak is not None and first_peak is not None and after is not None and idle is not None:
        # A first pass brings the code of libraries into a process; on CUDA what it leaves behind is the model's own.
        memory["activations_and_cache"] = peak - (after if place.type == "cuda" else idle)
        memory["running_peak"] = peak = max(peak, first_peak)
    memory["kv_cache"] = times.cache_bytes
    what = gauge.what
    seconds = times.summary()
    if settings.protocol == "organisers":
        peak = max((value for value in (memory.get("load_peak"), peak) if value is not None), default=None)
        what += ", loading included"
    elif place.type == "cuda":
        what += " after loading"
    sizes = {part.name: part.bytes for part in parts}
    return {
        "recipe": model.recipe.name,
        "recipe_hash": recipe_hash(model.recipe),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "protocol": settings.protocol,
        "device": _device_name(place),
        "machine": _machine(place),
        "versions": _versions(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "kernel": model.decoder.kernel,
        "decoding": clip.greedy.decoding,
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


def _floor(model: AudioLM, device: torch.device, counts: dict[str, int], autocast: bool) -> dict[str, Any]:
    """The quickest that this hardware could be; see `nota_cli.efficiency.floor`."""
    dtypes = {}
    for name in counts:
        part = model.decoder if name == "prefill" else getattr(model, name)
        dtypes[name] = torch.float16 if autocast and name in PARTS else part_dtype(part)
    rates = {dtype: matmul_rate(device, dtype) for dtype in dict.fromkeys(dtypes.values())}
    speed, size = bandwidth(device), bytes_per_token(model)
    seconds = {name: count / rates[dtypes[name]] for name, count in counts.items()}
    whole = sum(seconds.values())
    seconds |= {"ttft_from_features": whole, "ttft": whole, "first_step": size / speed, "tpot": size / speed}
    return {
        "seconds": seconds,
        "bytes_per_token": size,
        "bandwidth_gb_s": round(speed / 1e9, 3),
        "operations": counts,
        "matmul_tflop_s": {str(dtype).removeprefix("torch."): round(rate / 1e12, 6) for dtype, rate in rates.items()},
    }


def _too_large(parts: list[Part], device: torch.device, gauge: Meter, stage: str, times: Times) -> NotaError:
    """What is known when memory ran out, as one message."""
    largest = max(parts, key=lambda part: part.bytes)
    rows = [(f"{part.name}, MB", f"{part.bytes / 1e6:,.1f}") for part in parts]
    rows.append(("all weights, MB", f"{sum(part.bytes for part in parts) / 1e6:,.1f}"))
    rows += [(f"{label}, MB", f"{value / 1e6:,.1f}") for label, value in memory_there(str(device))]
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


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        size = torch.cuda.get_device_properties(device).total_memory
        return f"{torch.cuda.get_device_name(device)}, {size / 2**30:.0f} GiB"
    return f"cpu, {torch.get_num_threads()} threads"


def _machine(device: torch.device) -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {"cpu": cpu, "threads": torch.get_num_threads(), "gpu": gpu, "system": platform.system()}


def _versions() -> dict[str, str]:
    cuda = {"cuda": torch.version.cuda} if torch.version.cuda else {}
    return versions(LIBRARIES) | cuda


def _in_mb(sizes: Mapping[str, int | None]) -> dict[str, float | None]:
    return {name: None if size is None else round(size / 1e6, 3) for name, size in sizes.items()}
