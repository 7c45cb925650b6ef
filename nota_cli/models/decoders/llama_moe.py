"""LLaMA-MoE (Zhu et al. 2024): Llama 2 whose feed-forward layers are split into experts, a few of them used per token.

The published checkpoints ask for code from the hub. It is never run: importing this module makes transformers' Auto
classes know `llama_moe`, and they then read those checkpoints with the classes here, weight by weight.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, LlamaModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaPreTrainedModel,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)

from nota_cli.errors import CheckpointError, listing

TINY = 1e-10  # keeps a division by a mean of zero finite


@strict
class LlamaMoeConfig(LlamaConfig):
    """Llama's values and those of the experts, named as in the published config.json; the defaults are the 3.5B (2/8).

    Published files hold more keys (`capacity_factor`, `drop_tokens`, `dropped_padding`, `gates`); they belong to other
    ways of gating and change nothing here.

    Attributes:
        num_experts: experts in each layer.
        num_selects: how many of them a token goes through.
        size_experts: width of every expert of every layer; None shares `intermediate_size` out evenly.
        gate_type: "TopKBalancedNoisyGate", the only one there is.
        gate_network: "mlp" (two layers with tanh between) or "linear".
        gate_use_softmax: the chosen experts' logits become weights by softmax; else they are the weights.
        gate_add_noise: learnt noise on the logits while training.
        gate_noise_epsilon: its smallest standard deviation.
        gate_use_balance: add to the loss, while training, what uneven use of the experts costs.
        gate_balance_loss_weight: how much of it.
        calculator_type: "UniversalCalculator", the only one there is.
        multiply_gate_scores: experts' outputs are weighted, else summed as they are.
        score_scale_factor: what the weights are multiplied by, for all layers or for each.
        add_weight_norm: must be false.
    """

    model_type = "llama_moe"
    base_model_tp_plan = {}  # Llama's names layers that are not here

    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-5
    num_experts: int = 8
    num_selects: int = 2
    size_experts: list[list[int]] | None = None
    gate_type: str = "TopKBalancedNoisyGate"
    gate_network: str = "mlp"
    gate_use_softmax: bool = True
    gate_add_noise: bool = True
    gate_noise_epsilon: float = 1e-2
    gate_use_balance: bool = True
    gate_balance_loss_weight: float = 1e-2
    calculator_type: str = "UniversalCalculator"
    multiply_gate_scores: bool = True
    score_scale_factor: int | float | list[float] = 4.0
    add_weight_norm: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        kwargs.pop("auto_map", None)  # where the hub's code is
        super().__post_init__(**kwargs)
        problems = []
        if self.gate_type != "TopKBalancedNoisyGate":
            problems.append(f"gate_type is {self.gate_type!r}, only 'TopKBalancedNoisyGate' is known")
        if self.gate_network not in ("mlp", "linear"):
            problems.append(f"gate_network is {self.gate_network!r}, only 'mlp' and 'linear' are known")
        if self.calculator_type != "UniversalCalculator":
            problems.append(f"calculator_type is {self.calculator_type!r}, only 'UniversalCalculator' is known")
        if self.add_weight_norm:
            problems.append("add_weight_norm must be false")
        if not 1 <= self.num_selects <= self.num_experts:
            problems.append(f"num_selects is {self.num_selects}, must be from 1 to num_experts ({self.num_experts})")
        if self.size_experts is None:
            if self.intermediate_size % self.num_experts:
                problems.append("intermediate_size must be a multiple of num_experts where size_experts is not given")
        elif [len(sizes) for sizes in self.size_experts] != [self.num_experts] * self.num_hidden_layers:
            problems.append("size_experts must have num_experts sizes for each of num_hidden_layers layers")
        if isinstance(self.score_scale_factor, list) and len(self.score_scale_factor) != self.num_hidden_layers:
            problems.append("score_scale_factor must be one number or one for each of num_hidden_layers layers")
        if problems:
            raise CheckpointError(f"this LLaMA-MoE model cannot be built:\n{listing(problems)}")

    def expert_sizes(self, layer: int) -> list[int]:
        """Width of each expert of a layer."""
        if self.size_experts is not None:
            return self.size_experts[layer]
        return [self.intermediate_size // self.num_experts] * self.num_experts

    def score_scale(self, layer: int) -> float:
        """What the gate's weights are multiplied by in a layer."""
        scale = self.score_scale_factor
        return float(scale[layer] if isinstance(scale, list) else scale)


class TopKGate(nn.Module):
    """Chooses experts for each token (Shazeer et al. 2017)."""

    def __init__(self, config: LlamaMoeConfig) -> None:
        super().__init__()
        width, experts = config.hidden_size, config.num_experts
        self.selects = config.num_selects
        self.use_softmax = config.gate_use_softmax
        self.noise_epsilon = config.gate_noise_epsilon
        self.balance_weight = config.gate_balance_loss_weight if config.gate_use_balance else 0.0
        self.gate_network: nn.Module = nn.Linear(width, experts, bias=False)
        if config.gate_network == "mlp":
            self.gate_network = nn.Sequential(self.gate_network, nn.Tanh(), nn.Linear(experts, experts, bias=False))
        self.weight_noise = nn.Linear(width, experts, bias=False) if config.gate_add_noise else None

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Choose.

        Args:
            states: `[N, D]`.

        Returns:
            Chosen experts `[N, K]`, the best first; their weights `[N, K]`; the balance loss while training, else None.
        """
        clean = self.gate_network(states)
        logits, spread = clean, None
        if self.training and self.weight_noise is not None:
            spread = F.softplus(self.weight_noise(states)) + self.noise_epsilon
            logits = clean + torch.randn_like(clean) * spread
        chosen_logits, chosen = logits.topk(self.selects, dim=-1)
        weights = chosen_logits.softmax(-1, dtype=torch.float32).to(logits.dtype) if self.use_softmax else chosen_logits
        balance = None
        if self.training and self.balance_weight:
            importance = torch.zeros_like(logits).scatter(-1, chosen, weights).float().sum(0)
            balance = self.balance_weight * (_unevenness(importance) + _unevenness(self._load(logits, clean, spread)))
        return chosen, weights, balance

    def _load(self, logits: Tensor, clean: Tensor, spread: Tensor | None) -> Tensor:
        """How many tokens each expert gets `[E]`: expected over the noise, so that it has a gradient; else counted."""
        ranked = logits.topk(min(self.selects + 1, logits.size(-1)), dim=-1).values
        last_in = ranked[:, self.selects - 1, None]
        if spread is None or ranked.size(-1) == self.selects:
            return (logits >= last_in).float().sum(0)
        # The noise of one expert drawn anew, the others' as they are: an expert that is in must beat the first one out.
        first_out = ranked[:, self.selects, None]
        rival = torch.where(logits > first_out, first_out, last_in)
        return torch.special.ndtr(((clean - rival) / spread).float()).sum(0)


class Experts(nn.Module):
    """Slices of a gated feed-forward layer; their weights are bare matrices, as published."""

    def __init__(self, config: LlamaMoeConfig, layer: int) -> None:
        super().__init__()
        width, sizes = config.hidden_size, config.expert_sizes(layer)
        self.activation = ACT2FN[config.hidden_act]
        self.weight_gate = nn.ParameterList(torch.empty(size, width) for size in sizes)
        self.weight_up = nn.ParameterList(torch.empty(size, width) for size in sizes)
        self.weight_down = nn.ParameterList(torch.empty(width, size) for size in sizes)

    def forward(self, states: Tensor, expert: int) -> Tensor:
        """`[N, D]` through one expert."""
        gate = self.activation(F.linear(states, self.weight_gate[expert]))
        return F.linear(gate * F.linear(states, self.weight_up[expert]), self.weight_down[expert])


class LlamaMoeMlp(nn.Module):
    """What stands in the place of Llama's feed-forward layer.

    Attributes:
        balance_loss: of the last forward pass, while training.
    """

    def __init__(self, config: LlamaMoeConfig, layer: int) -> None:
        super().__init__()
        self.weighted = config.multiply_gate_scores
        self.scale = config.score_scale(layer)
        self.gate = TopKGate(config)
        self.calculator = nn.ModuleDict({"experts": Experts(config, layer)})
        self.balance_loss: Tensor | None = None

    def forward(self, states: Tensor) -> Tensor:
        """`[..., D]` to `[..., D]`: each token's experts, weighted and summed."""
        flat = states.flatten(0, -2)
        chosen, weights, self.balance_loss = self.gate(flat)
        experts: Any = self.calculator["experts"]
        selects = chosen.size(1)
        order = chosen.flatten().argsort()
        # Sorted by expert, so that each runs once on all its tokens, and counted at once: one wait for the device.
        counts = chosen.flatten().bincount(minlength=len(experts.weight_up)).tolist()
        mixed = torch.zeros_like(flat)
        for expert, assigned in enumerate(order.split(counts)):
            if not len(assigned):
                continue
            tokens = assigned // selects
            output = experts(flat[tokens], expert)
            if self.weighted:
                output = output * (weights.flatten()[assigned, None] * self.scale)
            mixed.index_add_(0, tokens, output.to(mixed.dtype))
        return mixed.view_as(states)


class LlamaMoeDecoderLayer(LlamaDecoderLayer):
    """Llama's layer with experts."""

    def __init__(self, config: LlamaMoeConfig, layer_idx: int) -> None:
        super(LlamaDecoderLayer, self).__init__()  # its own would build the feed-forward layer that is not wanted
        self.hidden_size = config.hidden_size
        self.self_attn = LlamaAttention(config, layer_idx)
        self.mlp = LlamaMoeMlp(config, layer_idx)  # type: ignore[assignment]  # in the place of Llama's
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)


class LlamaMoePreTrainedModel(LlamaPreTrainedModel):
    """What transformers has to know about these models."""

    config: LlamaMoeConfig
    _no_split_modules = ["LlamaMoeDecoderLayer"]
    _can_compile_fullgraph = False  # how many tokens an expert gets depends on the tokens

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.ParameterList):  # experts' matrices
            for weight in module:
                init.normal_(weight, std=self.config.initializer_range)


class LlamaMoeModel(LlamaMoePreTrainedModel, LlamaModel):
    """The model without its output head."""

    def __init__(self, config: LlamaMoeConfig) -> None:
        LlamaPreTrainedModel.__init__(self, config)  # LlamaModel's own would build dense layers
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList(LlamaMoeDecoderLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.post_init()


class LlamaMoeForCausalLM(LlamaMoePreTrainedModel, LlamaForCausalLM):
    """The language model."""

    def __init__(self, config: LlamaMoeConfig) -> None:
        LlamaPreTrainedModel.__init__(self, config)
        self.model = LlamaMoeModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @functools.wraps(LlamaForCausalLM.forward, assigned=(), updated=())  # `generate` reads the names of its arguments
    def forward(  # type: ignore[override]  # mypy does not see through the decorator
        self, *inputs: Any, **named: Any
    ) -> CausalLMOutputWithPast:
        """As Llama's; while training the layers' balance losses are added to `loss`, in evaluation it is plain."""
        output = super().forward(*inputs, **named)
        parts = [layer.mlp.balance_loss for layer in self.model.layers if layer.mlp.balance_loss is not None]
        for layer in self.model.layers:
            layer.mlp.balance_loss = None  # it would keep this pass's activations alive
        if parts and getattr(output, "loss", None) is not None:
            output.loss = output.loss + torch.stack(parts).sum().to(output.loss.dtype)
        return output


def _unevenness(use: Tensor) -> Tensor:
    """Squared coefficient of variation of the experts' use `[E]`; 0 where there is one expert."""
    if len(use) == 1:
        return use.new_zeros(())
    return use.var() / (use.mean().square() + TINY)


AutoConfig.register(LlamaMoeConfig.model_type, LlamaMoeConfig, exist_ok=True)
AutoModel.register(LlamaMoeConfig, LlamaMoeModel, exist_ok=True)
AutoModelForCausalLM.register(LlamaMoeConfig, LlamaMoeForCausalLM, exist_ok=True)
