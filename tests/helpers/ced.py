"""A CED encoder of a few thousand weights."""

import dataclasses

import torch

from helpers.tensors import shake
from nota_cli.models.encoders.ced import CedConfig, CedEncoder

TINY = CedConfig(embed_dim=32, depth=3, num_heads=4, target_length=84)  # 5 steps, and 4 frames over as published


def tiny(scaling: str = "published", token_order: str = "time", **changes: object) -> CedEncoder:
    """The tiny encoder with its config changed; no bias at zero and no norm at one, so that none is mixed up unseen."""
    torch.manual_seed(0)
    model = CedEncoder(dataclasses.replace(TINY, **changes), scaling=scaling, token_order=token_order)
    shake(model, 0.3)
    model.init_bn[0].running_mean.normal_()
    model.init_bn[0].running_var.uniform_(0.5, 2.0)
    model.init_bn[0].num_batches_tracked.fill_(123)
    return model.eval()
