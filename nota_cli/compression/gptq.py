"""Making 4-bit GPTQ decoders: calibrated on the embeddings the decoder really sees, saved in AutoGPTQ's format.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (2022). Algorithm
and packing are gptqmodel's; this module feeds them audio-and-prompt embeddings, which gptqmodel's own calibration (on
token ids) cannot.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from nota_cli.compression.calibration import CalibrationBatch, capture
from nota_cli.compression.folders import refuse_used, write_json
from nota_cli.console import progress
from nota_cli.errors import CheckpointError, UsageError, listing
from nota_cli.files import atomic_folder
from nota_cli.quantization.gptq_format import OLD_CONFIG
from nota_cli.quantization.gptq_runtime import exact_scales, import_gptqmodel, quantized_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PACKED_MULTIPLE = 32
"""Both sides of a quantized matrix must be multiples of this: 32-bit words of codes, and the kernels' tiles."""


@dataclass(frozen=True)
class LayerReport:
    """What quantizing did to one linear layer.

    Errors are |XW - XQ| / |XW| over all calibration positions, weighted such that each clip counts the same; X went
    through the quantized layers before this one.
    """

    name: str
    samples: int
    """Positions in the Hessian, padding left out."""
    rounding_error: float
    """Of plain rounding to the nearest code in the same format: what there would be without GPTQ."""
    error: float
    """Of GPTQ, on the weights as stored."""
    damp: float
    """Share of the mean Hessian diagonal added to it; more than was asked for if it was not positive definite."""


@dataclass(frozen=True)
class QuantizeReport:
    """What `quantize_to_folder` did, layers in the order in which they were done."""

    folder: Path
    bits: int
    group_size: int
    layers: tuple[LayerReport, ...]

    @property
    def error(self) -> float:
        """Mean of the layers' errors."""
        return sum(layer.error for layer in self.layers) / len(self.layers)

    @property
    def rounding_error(self) -> float:
        """Mean of the layers' errors under plain rounding."""
        return sum(layer.rounding_error for layer in self.layers) / len(self.layers)


def quantize_to_folder(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase | None",
    batches: Sequence[Mapping[str, Tensor]],
    folder: Path,
    *,
    bits: int = 4,
    group_size: int = 32,
    damp: float = 0.01,
    act_order: bool = False,
    dtype: torch.dtype | None = None,
) -> QuantizeReport:
    """Quantize the linear layers of all decoder blocks and save an AutoGPTQ folder; `model` is left as it was.

    Blocks are quantized in order, and within a block the layers in the order in which they run, so each sees what the
    quantized ones before it give. All clips count the same in the statistics, however long they are. Embedding, norms
    and output head stay as they are.

    Args:
        model: a transformers causal language model without adapters.
        tokenizer: saved beside the weights, if given.
        batches: dicts with `inputs_embeds` [B, T, D] as they enter the decoder, `attention_mask` [B, T] (0 = padding,
            left out of the statistics) and, if the decoder is to be called with them, `position_ids` [B, T].
        folder: where to; must not exist, or be empty.
        bits: bits a weight, 2, 3, 4 or 8.
        group_size: input features that share a scale, or -1 for all.
        damp: share of the mean Hessian diagonal that is added to it.
        act_order: take columns by falling activation size ("desc_act"); slower to run, a little more exact.
        dtype: of what is stored unquantized; None leaves it as it is.

    Raises:
        UsageError: layer sizes do not fit the format, adapters are not merged, or `folder` is not empty.
        DataError: no calibration positions, shapes that do not match, or values that are not finite.
        CheckpointError: weights GPTQ cannot handle.
    """
    import_gptqmodel()
    from gptqmodel.quantization import QuantizeConfig

    folder = Path(folder)
    refuse_used(folder)
    prefix = _block_prefix(model)
    blocks = cast(nn.ModuleList, model.get_submodule(prefix))
    _check_layers(blocks, prefix, bits, group_size, act_order)
    settings = QuantizeConfig(
        bits=bits,
        group_size=group_size,
        damp_percent=damp,
        desc_act=act_order,
        act_group_aware=group_size > 0 and not act_order,  # orders columns within the format of unordered ones
        sym=True,
        mse=2.0,  # search each group's scale for the least squared error, rather than take it from the largest weight
        fallback=None,  # never round in silence where there is too little data
        offload_to_disk=False,
    )
    originals: dict[str, nn.Linear] = {}
    layers: list[LayerReport] = []
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), progress() as bar:
            calibration = capture(model, blocks, batches)
            task = bar.add_task("quantize blocks", total=len(blocks), detail="")
            for index, block in enumerate(blocks):
                for stage in _stages(block, index, calibration[0]):
                    solvers = _observe(block, index, stage, calibration, settings)
                    for name, solver in solvers.items():
                        full = f"{prefix}.{index}.{name}"
                        originals[full] = cast(nn.Linear, block.get_submodule(name))
                        packed, report = _quantize_linear(full, originals[full], solver, settings)
                        block.set_submodule(name, packed)
                        layers.append(report)
                for batch in calibration:
                    batch.hidden = batch.run(block, index)
                bar.advance(task)
            with atomic_folder(folder) as part:
                _save(model, tokenizer, settings, part, dtype)
    finally:
        for name, linear in originals.items():
            model.set_submodule(name, linear)
        model.train(was_training)
    return QuantizeReport(folder, bits, group_size, tuple(layers))


def _block_prefix(model: nn.Module) -> str:
    from optimum.gptq.utils import get_block_name_with_pattern

    if any("lora_" in name for name, _ in model.named_modules()):
        raise UsageError("the decoder carries adapters; merge them (`nota merge-lora`) before quantizing")
    try:
        return str(get_block_name_with_pattern(model))  # the loader looks for the blocks with the same function
    except ValueError as error:
        raise UsageError(f"{type(model).__name__}: cannot tell which modules are decoder blocks: {error}") from error


def _check_layers(blocks: nn.ModuleList, prefix: str, bits: int, group_size: int, act_order: bool) -> None:
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear

    ok, error = TorchLinear.validate(
        bits=bits, group_size=group_size, desc_act=act_order, sym=True, pack_dtype=torch.int32
    )
    if not ok or bits not in (2, 3, 4, 8):  # optimum's loader takes no other
        raise UsageError(f"GPTQ with {bits} bits in groups of {group_size}: {error or 'bits must be 2, 3, 4 or 8'}")
    linears = {name: module for name, module in blocks.named_modules(prefix=prefix) if isinstance(module, nn.Linear)}
    problems = [] if linears else ["it has no linear layers; is it quantized already?"]
    for name, module in linears.items():
        size = f"{module.in_features} -> {module.out_features}"
        if type(module) is not nn.Linear:
            problems.append(f"{name} is a {type(module).__name__}, not a plain nn.Linear")
        elif module.in_features % PACKED_MULTIPLE or module.out_features % PACKED_MULTIPLE:
            problems.append(f"{name} is {size}, not multiples of {PACKED_MULTIPLE}")
        elif group_size > 0 and module.in_features % group_size:
            problems.append(f"{name} is {size}, inputs not a multiple of the group size {group_size}")
    if problems:
        raise UsageError("this decoder does not fit the GPTQ format; change its sizes:\n" + listing(problems))
    for name, module in linears.items():
        if not torch.isfinite(module.weight).all():
            raise CheckpointError(f"{name}.weight holds values that are not finite; the checkpoint is damaged")


def _stages(block: nn.Module, index: int, batch: CalibrationBatch) -> list[list[str]]:
    """Names of the block's linear layers in the order in which they run; those that share an input stand together."""
    seen: list[tuple[Tensor, list[str]]] = []

    def note(name: str, inputs: tuple[Any, ...]) -> None:
        if seen and seen[-1][0] is inputs[0]:
            seen[-1][1].append(name)
        else:
            seen.append((inputs[0], [name]))

    linears = {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear)}
    handles = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: note(name, inputs))
        for name, module in linears.items()
    ]
    try:
        batch.run(block, index)
    finally:
        for handle in handles:
            handle.remove()
    if sorted(name for _, names in seen for name in names) != sorted(linears):
        raise UsageError(f"block {index} does not call each of {sorted(linears)} once, so GPTQ cannot calibrate them")
    return [names for _, names in seen]


def _observe(
    block: nn.Module, index: int, names: Sequence[str], calibration: Sequence[CalibrationBatch], settings: Any
) -> dict[str, Any]:
    """A gptqmodel solver for each of the layers `names`, which share their input, with its Hessian filled."""
    from gptqmodel.quantization import GPTQ

    solvers = {name: GPTQ(block.get_submodule(name), qcfg=settings) for name in names}
    first = solvers[names[0]]
    for batch in calibration:

        def collect(_: nn.Module, inputs: tuple[Any, ...], output: Tensor, batch: CalibrationBatch = batch) -> None:
            kept = inputs[0][batch.keep]
            first.add_batch(kept * batch.factors.to(kept), output)

        handle = block.get_submodule(names[0]).register_forward_hook(collect)
        try:
            batch.run(block, index)
        finally:
            handle.remove()
    for solver in solvers.values():
        solver.adopt_hessian_from(first)
    return solvers


def _quantize_linear(name: str, linear: nn.Linear, solver: Any, settings: Any) -> tuple[nn.Module, LayerReport]:
    """The packed layer, and how far it is from `linear` on the inputs that `solver` has seen."""
    weight = linear.weight.detach().float()
    hessian = solver.finalize_hessian().clone()
    if not torch.isfinite(hessian).all():
        raise CheckpointError(f"{name}: its inputs are not finite on the calibration data")
    width = settings.group_size if settings.group_size > 0 else linear.in_features
    solver.quantizer.configure(perchannel=True)
    rounding_error = _relative_error(weight, _rounded(weight, solver.quantizer, width), hessian)
    # Blocks as wide as a group: gptqmodel brings the weights up to date between blocks, and takes scales from them.
    solution, scale, zero, g_idx, _, loss, damp, samples = solver.quantize(blocksize=width)
    solver.free()
    linear.__dict__.pop("target_device", None)  # left there by gptqmodel
    if isinstance(loss, str) or not math.isfinite(loss) or damp >= 1:
        raise CheckpointError(f"{name}: GPTQ found no solution (loss {loss}, damp {damp}); give it more or other data")
    packed = _pack(linear, solution, scale, zero, g_idx, settings)
    if not (torch.isfinite(packed.scales).all() and (packed.scales > 0).all()):
        raise CheckpointError(f"{name}: weights too large or too small for half-precision scales")
    error = _relative_error(weight, packed.dequantize_weight().T, hessian)
    return packed, LayerReport(name, int(samples), rounding_error, error, float(damp))


def _pack(linear: nn.Linear, weight: Tensor, scale: Tensor, zero: Tensor, g_idx: Tensor, settings: Any) -> Any:
    """A gptqmodel layer with `weight`, which lies on the grid, as codes."""
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear

    source = nn.Linear(linear.in_features, linear.out_features, bias=False, device="meta")
    source.weight = nn.Parameter(weight.detach().float().cpu(), requires_grad=False)
    source.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach().cpu(), requires_grad=False)
    packed = TorchLinear(
        bits=settings.bits,
        group_size=settings.group_size,
        sym=True,
        desc_act=settings.desc_act,
        in_features=linear.in_features,
        out_features=linear.out_features,
        bias=linear.bias is not None,
    )
    # The plain packer: the default one compiles a C++ extension where it can.
    packed.pack_original(source, scale.cpu(), zero.cpu(), g_idx.cpu())
    packed.optimized = True  # no torch.compile
    packed.to(linear.weight.device)
    packed.post_init()
    exact_scales(packed)
    return packed.eval()


def _rounded(weight: Tensor, quantizer: Any, width: int) -> Tensor:
    """`weight` [out, in] rounded to the nearest codes of the same format, in groups of `width` inputs."""
    groups = weight.reshape(-1, width)
    quantizer.find_params(groups, weight=True)
    quantizer.scale = quantizer.scale.half().float()  # as stored
    rounded: Tensor = quantizer.quantize(groups).reshape(weight.shape)
    return rounded


def _relative_error(weight: Tensor, quantized: Tensor, hessian: Tensor) -> float:
    """|XW - XQ| / |XW| in the Frobenius norm, from any multiple of X'X."""
    weight, hessian = weight.double(), hessian.double()
    difference = weight - quantized.double()
    total = float(((weight @ hessian) * weight).sum())
    return math.sqrt(float(((difference @ hessian) * difference).sum()) / total) if total > 0 else 0.0


def _save(model: Any, tokenizer: Any, settings: Any, folder: Path, dtype: torch.dtype | None) -> None:
    """Write `model`, whose blocks now hold packed layers, in GPTQ v1 format, the rest in `dtype`."""
    from gptqmodel import __version__ as gptqmodel_version
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    described = {
        "quant_method": "gptq",
        "bits": settings.bits,
        "group_size": settings.group_size,
        "desc_act": settings.desc_act,
        "sym": True,
        "damp_percent": settings.damp_percent,
        "true_sequential": True,
        "checkpoint_format": "gptq",
        "meta": {"quantizer": [f"gptqmodel:{gptqmodel_version}"], "act_group_aware": settings.act_group_aware},
    }
    packed = quantized_layers(model)
    for module in packed.values():
        convert_gptq_v2_to_v1_format_module(module, settings)  # zero points less one, as AutoGPTQ stores them
        module.scales = module.scales.half()
        if module.bias is not None:
            module.bias = module.bias.half()
    state = model.state_dict() if dtype is None else _in_dtype(model.state_dict(), tuple(packed), dtype)
    model.config.quantization_config = described
    try:
        model.save_pretrained(folder, state_dict=state)
    finally:
        del model.config.quantization_config
    write_json(folder / OLD_CONFIG, described)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def _in_dtype(state: Mapping[str, Tensor], packed: Sequence[str], dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights in `dtype`, those of packed layers as they are; what shares memory still does, and is stored once."""
    inside = tuple(f"{name}." for name in packed)
    converted: dict[int, Tensor] = {}
    changed = {}
    for name, value in state.items():
        if name.startswith(inside) or not value.is_floating_point():
            changed[name] = value
        else:
            changed[name] = converted.setdefault(value.data_ptr(), value.to(dtype))
    return changed
