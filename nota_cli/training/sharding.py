"""FSDP2 (`torch.distributed.fsdp.fully_shard`): each process keeps a part of every layer, and gathers it to run it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin, parse_flag_from_env
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard, share_comm_ctx
from torch.distributed.tensor import DTensor, distribute_tensor

from nota_cli.errors import UsageError
from nota_cli.models.families.salmonn import Salmonn
from nota_cli.recipe.training import Train
from nota_cli.training.recompute import trained_layers


def shards_layers(accelerator: Accelerator, spec: Train) -> bool:
    """Whether layers are shared out: `train.parallel` or `accelerate launch --use_fsdp --fsdp_version 2` asks for it.

    Raises:
        UsageError: `accelerate launch` asks for the first version of FSDP.
    """
    plugin = _plugin(accelerator)
    if plugin is not None and plugin.fsdp_version != 2:
        raise UsageError("accelerate launch --use_fsdp means FSDP 1 here; add --fsdp_version 2")
    return accelerator.num_processes > 1 and (plugin is not None or spec.parallel == "fsdp")


def shard_layers(model: Salmonn, accelerator: Accelerator) -> None:
    """Share out the layers of the decoder and of the encoders that are trained.

    Each layer is gathered when it runs, forward and backward, and its gradients are summed over the processes. All else
    (embeddings, connector, frozen encoders) stays whole in every process: it is read from outside of the module that
    owns it, and an encoder that fills a cache runs at another pace in each process.

    Args:
        model: the same in every process.
        accelerator: of its FSDP plugin, if there is one, `reshard_after_forward` and `cpu_offload` are taken.
    """
    plugin = _plugin(accelerator)
    options: dict[str, Any] = {"reshard_after_forward": True}
    if plugin is not None:
        options["reshard_after_forward"] = bool(plugin.reshard_after_forward)
        if isinstance(plugin.cpu_offload, CPUOffloadPolicy):
            options["offload_policy"] = plugin.cpu_offload
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    layers = []
    for layer in trained_layers(model):
        tables = (module for module in layer.modules() if isinstance(module, nn.Embedding))
        whole = {parameter for module in tables for parameter in module.parameters()}  # BEATs' positions, for one
        whole |= {parameter for parameter in layer.parameters() if not parameter.is_floating_point()}  # packed weights
        sharded: Any = fully_shard(layer, mesh=mesh, ignored_params=whole, **options)
        # The losses are weighted so that a sum over the processes is the gradient; gloo has no other sum than this.
        sharded.set_force_sum_reduction_for_comms(True)
        sharded.set_gradient_divide_factor(1.0)
        layers.append(sharded)
    share_comm_ctx(layers)


def _plugin(accelerator: Accelerator) -> FullyShardedDataParallelPlugin | None:
    """What `accelerate launch --use_fsdp` sets up."""
    if not parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return None
    # On processors alone accelerate reads these settings and then keeps them nowhere.
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    return FullyShardedDataParallelPlugin() if plugin is None else plugin


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process has only a part of it."""
    return isinstance(tensor, DTensor)


def own_part(tensor: Tensor) -> Tensor:
    """What this process has of a tensor, in the same memory; all of one that is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, to be called by every process at the same time where it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def spread_like(example: Tensor, value: Tensor) -> Tensor:
    """A whole tensor, which each process has, on the device of another one and sharded as that is."""
    value = value.to(example.device)
    if not isinstance(example, DTensor):
        return value
    return distribute_tensor(value, example.device_mesh, example.placements, src_data_rank=None)


def clip_norm(parameters: list[nn.Parameter], most: float) -> float:
    """Cut the norm of all gradients, sharded ones counted in whole, to `most`; returns what it was."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    parts = [own_part(gradient) for gradient in gradients if is_sharded(gradient)]
    square = torch.nn.utils.get_total_norm(parts).square() if parts else gradients[0].new_zeros(())
    torch.distributed.all_reduce(square)
    others = torch.nn.utils.get_total_norm([gradient for gradient in gradients if not is_sharded(gradient)])
    norm = (square + others.to(square.device).square()).sqrt()
    factor = float((most / (norm + 1e-6)).clamp(max=1.0))  # a number, as offloaded gradients lie on another device
    for gradient in gradients:
        own_part(gradient).mul_(factor)
    return float(norm)


@contextmanager
def gathered(model: nn.Module, main: bool) -> Iterator[None]:
    """Inside, the main process's model has all of its weights, in main memory, to be saved and not to be run.

    Every process has to enter at the same time.
    """
    kept: list[tuple[nn.Module, str, nn.Parameter]] = []
    try:
        for module in model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                if isinstance(parameter, DTensor):
                    full = whole(parameter.detach())
                    if main:
                        kept.append((module, name, parameter))
                        module._parameters[name] = nn.Parameter(full.cpu(), parameter.requires_grad)
        yield
    finally:
        for module, name, parameter in kept:
            module._parameters[name] = parameter
