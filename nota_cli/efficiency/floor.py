"""What the hardware allows: bytes over measured bandwidth, operations over the measured rate of matrix products."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nota_cli.efficiency.timing import Clock
from nota_cli.generation.runtimes.torch import PARTS, TorchRuntime

BUFFER_BYTES = {"cpu": 256 * 2**20, "cuda": 2**30}  # far more than caches hold
LARGEST_MATRIX = {"cpu": 4096, "cuda": 8192}
TRIES = 8
TRY_SECONDS = 1.0
ATTENTIONS = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
"""torch's own ways to compute it. Its counter knows not all, and refuses keys with fewer heads than queries."""


def bytes_per_token(model: Any) -> int:
    """Bytes of weights that a decode step at batch 1 has to read.

    That is the decoder with its adapters and its output layer; the table of embeddings only where it is the output
    layer too, and of experts as many as a token goes through. The KV cache, small after one clip, is left out.
    """
    total = sum(part.bytes for part in model.parts() if part.name in ("decoder", "lora"))
    base = model.decoder.base
    table, head = base.get_input_embeddings(), base.get_output_embeddings()
    if table is not None and (head is None or head.weight.data_ptr() != table.weight.data_ptr()):
        total -= table.weight.nbytes
    experts, chosen = getattr(base.config, "num_experts", None), getattr(base.config, "num_selects", None)
    if experts and chosen:
        held = sum(tensor.nbytes for name, tensor in base.named_parameters() if ".experts." in name)
        total -= int(held * (1 - chosen / experts))
    return total


def operations(model: nn.Module, runtime: TorchRuntime, prefill: Callable[[], None]) -> dict[str, int]:
    """Floating-point operations (a multiplication and an addition are two) of `prefill`, by part.

    Linear layers count by their shapes, so that kernels for packed weights count like any others; convolutions and the
    products inside attention count as torch's own counter does.
    """
    adjust = 0
    attention = {getattr(torch.ops.aten, f"_scaled_dot_product_{name}"): _attention for name in ATTENTIONS}
    counter = FlopCounterMode(display=False, custom_mapping=attention)
    inside: list[int] = []

    def before(*_: object) -> None:
        inside.append(counter.get_total_flops())

    def after(layer: Any, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal adjust
        known = counter.get_total_flops() - inside.pop()
        adjust += 2 * layer.in_features * output.numel() - known

    hooks = []
    for layer in filter(_is_linear, model.modules()):
        hooks += [layer.register_forward_pre_hook(before), layer.register_forward_hook(after)]
    try:
        with counter, runtime.watch(lambda: counter.get_total_flops() + adjust) as spans:
            prefill()
    finally:
        for hook in hooks:
            hook.remove()
    counts = {name: sum(last - first for part, first, last in spans if part == name) for name in PARTS}
    counts["prefill"] = counter.get_total_flops() + adjust - sum(counts.values())
    return {name: count for name, count in counts.items() if count}


def part_dtype(part: nn.Module) -> torch.dtype:
    """The type that a part computes in: its layers' own, else that of its largest tensor, float32 without one."""
    if any(getattr(module, "compute_dtype", None) == torch.float32 for module in part.modules()):
        return torch.float32
    tensors = [tensor for tensor in part.parameters() if tensor.is_floating_point()]
    return max(tensors, key=lambda tensor: tensor.numel()).dtype if tensors else torch.float32


def bandwidth(device: torch.device) -> float:
    """Bytes a second between processor and memory: the best of reading a large block and of copying it."""
    size = BUFFER_BYTES[device.type]
    if device.type == "cuda":
        size = min(size, torch.cuda.mem_get_info(device)[0] // 8)
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    reading, copying = _best(device, source.sum), _best(device, lambda: target.copy_(source))
    return max(source.nbytes / reading, 2 * source.nbytes / copying)


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of products of large square matrices in `dtype`."""
    size, rate = 256, 0.0
    while True:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        seconds = _best(device, partial(F.linear, a, b))  # some processors have no other quick way
        rate = max(rate, 2 * size**3 / seconds)
        size *= 2
        if size > LARGEST_MATRIX[device.type] or 2 * size**3 / rate > TRY_SECONDS / 2:
            return rate


def _best(device: torch.device, run: Callable[[], object]) -> float:
    """Seconds of the quickest of some runs."""
    clock, times = Clock(device), list[float]()
    run()
    begun = time.perf_counter()
    while len(times) < TRIES and (not times or time.perf_counter() - begun < TRY_SECONDS):
        start = clock.now()
        run()
        times.append(clock.now() - start)
    return min(times)


def _is_linear(module: nn.Module) -> bool:
    """A layer with a weight matrix, packed or not; not PEFT's wrapper round one."""
    return hasattr(module, "in_features") and not any(hasattr(inner, "in_features") for inner in _inner(module))


def _inner(module: nn.Module) -> list[nn.Module]:
    return list(module.modules())[1:]


def _attention(query: Any, key: Any, value: Any, *_: object, **__: object) -> int:
    """Scores and weighted sum; shapes are [batch, heads, length, width]."""
    pairs = query[0] * query[1] * query[2] * key[2]
    return 2 * pairs * (query[3] + value[3])


def hardware_floor(model: Any, device: torch.device, counts: dict[str, int], autocast: bool) -> dict[str, Any]:
    """The quickest that this hardware could be, by stage, and what that comes from.

    Args:
        model: of torch modules.
        device: where it lies.
        counts: operations of each part (`operations`).
        autocast: whether encoders and connector run in float16.
    """
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
