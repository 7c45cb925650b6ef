"""What a recipe costs: bytes by part, peak memory, time to first token, time per output token."""

import platform
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from nota_cli.data.audio import SAMPLE_RATE
from nota_cli.data.inputs import extract
from nota_cli.inference import feature_spec
from nota_cli.model.audio_lm import AudioLM
from nota_cli.model.build import build
from nota_cli.prompts import Query
from nota_cli.recipe.load import recipe_hash
from nota_cli.recipe.schema import LoadFormat, Recipe

WARM_UP = 3


def measure(
    recipe: Recipe, device: str, audio_seconds: float, tokens: int, rounds: int, load_format: LoadFormat = "auto"
) -> dict[str, object]:
    """Build the recipe and time it at batch 1 on one clip of random noise.

    The clocks stand only where the device has finished: it is synchronised before each reading.

    Args:
        recipe: the system.
        device: "cpu" or a CUDA device.
        audio_seconds: length of the clip, in seconds.
        tokens: decode steps a round.
        rounds: counted rounds; some more go before to warm up.
        load_format: "dummy" measures random weights of the true size.

    Returns:
        Times are medians in seconds, memory is in MB (10^6 bytes). `ttft_from_features_s` begins with ready
        spectrograms, `ttft_from_waveform_s` with the waveform; both end with the first token's id. `tpot_s` is the
        median over single decode steps after the first. On a CPU `peak_memory_mb` is the process's resident set.
    """
    model = build(recipe, device, load_format=load_format)
    cuda = device.startswith("cuda")
    synchronise: Callable[[], object] = torch.cuda.synchronize if cuda else lambda: None
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    spec = feature_spec(model)
    noise = np.random.default_rng(0).standard_normal(int(audio_seconds * SAMPLE_RATE)).astype(np.float32) * 0.1
    features_times, first_times, step_times = [], [], []
    for turn in range(WARM_UP + rounds):
        synchronise()
        start = time.perf_counter()
        features = extract([noise], spec.mel_bins, front_end=spec.front_end, pad=spec.pad)
        synchronise()
        ready = time.perf_counter()
        first, steps = _decode(model, features, tokens, synchronise)
        if turn >= WARM_UP:
            features_times.append(ready - start)
            first_times.append(first - ready)
            step_times += steps
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    ttft = statistics.median(first_times)
    return {
        "recipe": recipe.name,
        "recipe_hash": recipe_hash(recipe),
        "device": torch.cuda.get_device_name() if cuda else f"cpu, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "kernel": model.decoder.kernel,
        "audio_seconds": audio_seconds,
        "rounds": rounds,
        **{f"{part}_mb": round(size / 1e6, 3) for part, size in part_bytes(model).items()},
        "peak_memory_mb": round(peak / 1e6, 1),
        "peak_memory_is": "CUDA allocations after loading" if cuda else "resident set of the process",
        "ttft_from_features_s": round(ttft, 5),
        "ttft_from_waveform_s": round(ttft + statistics.median(features_times), 5),
        "tpot_s": round(statistics.median(step_times), 6),
    }


def part_bytes(model: AudioLM) -> dict[str, int]:
    """Bytes of weights and buffers of each part, every tensor counted once, and of all `weights` together."""
    sizes: dict[str, int] = {}
    seen: set[int] = set()
    for part in ("speech_encoder", "audio_encoder", "connector", "decoder"):
        module = getattr(model, part)
        tensors = [] if module is None else [*module.parameters(), *module.buffers()]
        fresh = {tensor.data_ptr(): tensor.nbytes for tensor in tensors if tensor.data_ptr() not in seen}
        seen |= set(fresh)
        sizes[part] = sum(fresh.values())
    return {**sizes, "weights": sum(sizes.values())}


@torch.inference_mode()
def _decode(
    model: AudioLM, features: object, tokens: int, synchronise: Callable[[], object]
) -> tuple[float, list[float]]:
    """Prefill and greedy steps; the moment of the first token, and the seconds of each step after it."""
    embeds, mask = model.prompt_embeds(features, [Query("asr")])
    decoder = model.decoder.model
    output = decoder(inputs_embeds=embeds, attention_mask=mask, use_cache=True, logits_to_keep=1)
    token = output.logits[:, -1:].argmax(-1)
    synchronise()
    first = last = time.perf_counter()
    steps = []
    for _ in range(tokens):
        mask = torch.cat([mask, mask.new_ones(1, 1)], dim=1)
        output = decoder(input_ids=token, attention_mask=mask, past_key_values=output.past_key_values, use_cache=True)
        token = output.logits[:, -1:].argmax(-1)
        synchronise()
        now = time.perf_counter()
        steps.append(now - last)
        last = now
    return first, steps
