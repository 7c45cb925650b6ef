"""LLaMA-MoE: a published folder loads without its own code, and the experts compute what an explicit loop computes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from nota_cli.errors import CheckpointError
from nota_cli.models.decoders.llama_moe import LlamaMoeConfig, LlamaMoeForCausalLM

WIDTH, LAYERS, EXPERTS, VOCABULARY = 32, 2, 4, 50
# config.json as published, keys without effect included, at a tiny size and with experts of unequal widths.
PUBLISHED: dict[str, Any] = {
    "add_weight_norm": False,
    "architectures": ["LlamaMoEForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_llama_moe.LlamaMoEConfig",
        "AutoModel": "modeling_llama_moe_hf.LlamaMoEModel",
        "AutoModelForCausalLM": "modeling_llama_moe_hf.LlamaMoEForCausalLM",
    },
    "bos_token_id": 1,
    "calculator_type": "UniversalCalculator",
    "capacity_factor": 1.25,
    "drop_tokens": True,
    "dropped_padding": "zero",
    "eos_token_id": 2,
    "gate_add_noise": True,
    "gate_balance_loss_weight": 0.01,
    "gate_network": "mlp",
    "gate_noise_epsilon": 0.01,
    "gate_type": "TopKBalancedNoisyGate",
    "gate_use_balance": True,
    "gate_use_softmax": True,
    "gates": "mlp",
    "hidden_act": "silu",
    "hidden_size": WIDTH,
    "initializer_range": 0.02,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "model_type": "llama_moe",
    "multiply_gate_scores": True,
    "num_attention_heads": 4,
    "num_experts": EXPERTS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": 4,
    "num_selects": 2,
    "pad_token_id": 0,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "score_scale_factor": 4.0,
    "size_experts": [[16, 16, 16, 16], [8, 24, 12, 20]],
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.31.0",
    "use_cache": True,
    "vocab_size": VOCABULARY,
}


def published_weights(config: dict[str, Any]) -> dict[str, Tensor]:
    """Random weights under the published names, the position frequencies of old files included."""
    generator = torch.Generator().manual_seed(5)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * shape[-1] ** -0.5

    weights = {"model.embed_tokens.weight": random(VOCABULARY, WIDTH), "lm_head.weight": random(VOCABULARY, WIDTH)}
    weights["model.norm.weight"] = torch.ones(WIDTH)
    for layer, sizes in enumerate(config["size_experts"]):
        prefix = f"model.layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            weights[f"{prefix}self_attn.{name}.weight"] = random(WIDTH, WIDTH)
        weights[f"{prefix}self_attn.rotary_emb.inv_freq"] = torch.rand(4)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{prefix}{name}.weight"] = torch.ones(WIDTH)
        gate = f"{prefix}mlp.gate."
        if config["gate_network"] == "mlp":
            weights[f"{gate}gate_network.0.weight"] = random(EXPERTS, WIDTH)
            weights[f"{gate}gate_network.2.weight"] = 3 * random(EXPERTS, EXPERTS)
        else:
            weights[f"{gate}gate_network.weight"] = random(EXPERTS, WIDTH)
        if config["gate_add_noise"]:
            weights[f"{gate}weight_noise.weight"] = torch.zeros(EXPERTS, WIDTH)
        for expert, size in enumerate(sizes):
            experts = f"{prefix}mlp.calculator.experts."
            weights[f"{experts}weight_gate.{expert}"] = random(size, WIDTH)
            weights[f"{experts}weight_up.{expert}"] = random(size, WIDTH)
            weights[f"{experts}weight_down.{expert}"] = random(WIDTH, size)
    return weights


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder as it is published, its code (which must not run) included."""

    def write(**changes: Any) -> Path:
        config = {**PUBLISHED, **changes}
        (tmp_path / "config.json").write_text(json.dumps(config))
        for name in ("configuration_llama_moe.py", "modeling_llama_moe_hf.py"):
            (tmp_path / name).write_text("raise SystemExit('code from the hub was run')\n")
        save_file(published_weights(config), tmp_path / "model.safetensors", metadata={"format": "pt"})
        return tmp_path

    return write


def load(path: Path, **options: Any) -> LlamaMoeForCausalLM:
    model, report = AutoModelForCausalLM.from_pretrained(path, dtype="float32", output_loading_info=True, **options)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model


def one_token(state: Tensor, weights: dict[str, Tensor], layer: int, config: dict[str, Any]) -> Tensor:
    """The feed-forward part for one token `[D]`, step by step."""
    prefix = f"model.layers.{layer}.mlp."
    if config["gate_network"] == "mlp":
        hidden = torch.tanh(weights[f"{prefix}gate.gate_network.0.weight"] @ state)
        logits = weights[f"{prefix}gate.gate_network.2.weight"] @ hidden
    else:
        logits = weights[f"{prefix}gate.gate_network.weight"] @ state
    best = sorted(range(EXPERTS), key=lambda expert: -float(logits[expert]))[: config["num_selects"]]
    exponentials = {expert: float(logits[expert].exp()) for expert in best}
    total = torch.zeros(WIDTH)
    for expert in best:
        up, gate, down = (
            weights[f"{prefix}calculator.experts.{name}.{expert}"]
            for name in ("weight_up", "weight_gate", "weight_down")
        )
        score = exponentials[expert] / sum(exponentials.values()) if config["gate_use_softmax"] else logits[expert]
        scale = config["score_scale_factor"]
        weight = score * (scale[layer] if isinstance(scale, list) else scale)
        total += (weight if config["multiply_gate_scores"] else 1.0) * (down @ (F.silu(gate @ state) * (up @ state)))
    return total


def test_a_published_folder_loads_whole_and_without_its_code(folder: Callable[..., Path]) -> None:
    path = folder()
    model = load(path)
    assert isinstance(model, LlamaMoeForCausalLM)
    assert isinstance(AutoConfig.from_pretrained(path), LlamaMoeConfig)
    state = model.state_dict()
    expected = {name: value for name, value in published_weights(PUBLISHED).items() if "inv_freq" not in name}
    assert set(state) == set(expected)
    for name, value in expected.items():
        assert torch.equal(state[name], value), name


def test_even_trusting_callers_do_not_run_the_code_of_the_hub(folder: Callable[..., Path]) -> None:
    assert isinstance(load(folder(), trust_remote_code=True), LlamaMoeForCausalLM)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_selects": 1},
        {"num_selects": EXPERTS},
        {"gate_network": "linear", "gate_add_noise": False},
        {"gate_use_softmax": False},
        {"multiply_gate_scores": False},
        {"score_scale_factor": [0.5, 8.0]},
    ],
    ids=str,
)
def test_experts_compute_what_a_loop_over_tokens_computes(folder: Callable[..., Path], changes: dict[str, Any]) -> None:
    config = {**PUBLISHED, **changes}
    weights, model = published_weights(config), load(folder(**changes))
    states = torch.randn(3, 7, WIDTH, generator=torch.Generator().manual_seed(1))
    for layer in range(LAYERS):
        with torch.no_grad():
            ours = model.model.layers[layer].mlp(states)
        reference = torch.stack([one_token(state, weights, layer, config) for state in states.flatten(0, 1)])
        assert torch.allclose(ours, reference.view_as(ours), rtol=1e-4, atol=1e-5)


def test_all_experts_at_equal_weight_are_the_dense_model_that_they_were_cut_from(folder: Callable[..., Path]) -> None:
    model = load(folder(num_selects=EXPERTS, score_scale_factor=float(EXPERTS)))
    keys = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
        "rms_norm_eps",
    )
    dense = LlamaForCausalLM(LlamaConfig(**{key: PUBLISHED[key] for key in keys}, pad_token_id=0)).eval()
    weights = {name: value for name, value in model.state_dict().items() if ".mlp." not in name}
    for index, layer in enumerate(model.model.layers):
        experts = layer.mlp.calculator["experts"]
        for name, parts, axis in (
            ("gate", experts.weight_gate, 0),
            ("up", experts.weight_up, 0),
            ("down", experts.weight_down, 1),
        ):
            weights[f"model.layers.{index}.mlp.{name}_proj.weight"] = torch.cat(list(parts), axis)
        torch.nn.init.zeros_(layer.mlp.gate.gate_network[2].weight)
    dense.load_state_dict(weights)
    ids = torch.tensor([[1, 7, 30, 12, 5]])
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, dense(ids).logits, rtol=1e-4, atol=1e-4)


def test_rows_of_a_padded_batch_are_what_each_is_alone(folder: Callable[..., Path]) -> None:
    model = load(folder())
    rows = [torch.randn(length, WIDTH, generator=torch.Generator().manual_seed(length)) for length in (9, 4, 1)]
    embeds, mask = torch.zeros(3, 9, WIDTH), torch.zeros(3, 9, dtype=torch.long)
    for index, row in enumerate(rows):
        embeds[index, 9 - len(row) :], mask[index, 9 - len(row) :] = row, 1
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    for beams in (1, 3):
        together = model.generate(inputs_embeds=embeds, attention_mask=mask, num_beams=beams, **settings)
        for index, row in enumerate(rows):
            alone = model.generate(inputs_embeds=row[None], num_beams=beams, **settings)
            assert together[index].tolist() == alone[0].tolist()


def test_the_cache_changes_nothing(folder: Callable[..., Path]) -> None:
    model = load(folder())
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    ids = torch.tensor([[1, 7, 30]])
    assert torch.equal(model.generate(ids, **settings), model.generate(ids, use_cache=False, **settings))


def test_generating_sees_what_the_model_takes(folder: Callable[..., Path]) -> None:
    """`generate` asks the signature: whether padding can be masked, whether the last place's logits are enough."""
    model = load(folder())
    settings = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    padded = model.generate(torch.tensor([[0, 0, 1, 7, 30]]), **settings)  # 0 is the padding; no mask given
    assert padded[0, 5:].tolist() == model.generate(torch.tensor([[1, 7, 30]]), **settings)[0, 3:].tolist()
    shapes = []
    model.lm_head.register_forward_hook(lambda head, inputs, output: shapes.append(output.shape[1]))
    model.generate(torch.tensor([[1, 7, 30, 5]]), **settings)
    assert shapes == [1] * 5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(folder: Callable[..., Path], dtype: torch.dtype) -> None:
    path = folder()
    states = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(2))
    half = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).model.layers[0].mlp
    with torch.no_grad():
        ours, exact = half(states.to(dtype)), load(path).model.layers[0].mlp(states)
    assert ours.dtype == dtype
    assert torch.linalg.norm(ours.float() - exact) < 0.03 * torch.linalg.norm(exact)


def test_noise_is_for_training_alone(folder: Callable[..., Path]) -> None:
    mlp = load(folder()).model.layers[0].mlp
    states = torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(0)
    with torch.no_grad():
        assert torch.equal(mlp(states), mlp(states))
        mlp.train()
        assert not torch.equal(mlp(states), mlp(states))


def test_training_adds_what_uneven_use_of_experts_costs(folder: Callable[..., Path]) -> None:
    model = load(folder())
    ids = torch.tensor([[1, 7, 30, 12, 5, 9, 44, 21]])
    plain = F.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:])
    assert float(model(ids, labels=ids).loss.detach()) == pytest.approx(float(plain.detach()), rel=1e-5)

    def cost(bias: float) -> Tensor:
        """Of one layer whose gate is pulled to its first expert."""
        gate = model.model.layers[0].mlp.gate.train()
        with torch.no_grad():
            gate.gate_network[2].weight[0] += bias
        _, _, balance = gate(torch.ones(200, WIDTH))
        return balance

    torch.manual_seed(0)
    even = cost(0.0)
    assert 0 <= float(even.detach()) < float(cost(40.0).detach())

    model.train()
    loss = model(ids, labels=ids).loss
    loss.backward()
    for layer in model.model.layers:
        assert layer.mlp.balance_loss is None
        assert layer.mlp.gate.gate_network[0].weight.grad.abs().sum() > 0
        assert layer.mlp.gate.weight_noise.weight.grad.abs().sum() > 0
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters() if weight.grad is not None)


@pytest.mark.parametrize("changes", [{"gate_add_noise": False}, {"num_selects": EXPERTS}], ids=str)
def test_the_balance_loss_without_noise_or_without_a_choice(
    folder: Callable[..., Path], changes: dict[str, Any]
) -> None:
    model = load(folder(**changes)).train()
    ids = torch.tensor([[1, 7, 30, 12, 5]])
    loss = model(ids, labels=ids).loss
    loss.backward()
    assert torch.isfinite(loss)


def test_gradients_reach_what_is_fed_in_and_lora_learns(folder: Callable[..., Path]) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = load(folder(gate_add_noise=False))
    config = LoraConfig(
        r=4, lora_alpha=32, lora_dropout=0.0, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    model = get_peft_model(model, config).train()
    embeds = torch.randn(2, 6, WIDTH, requires_grad=True)
    labels = torch.randint(3, VOCABULARY, (2, 6))
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = model(inputs_embeds=embeds, labels=labels, use_cache=False).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert embeds.grad.abs().sum(-1).all()
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert trained
    assert all(name.split(".lora_")[0].endswith(("q_proj", "v_proj")) for name in trained)


def test_recomputing_activations_gives_the_same_gradients(folder: Callable[..., Path]) -> None:
    model = load(folder()).train()
    ids = torch.tensor([[1, 7, 30, 12, 5]])
    gradients = []
    for recompute in (False, True):
        if recompute:
            model.gradient_checkpointing_enable()
        torch.manual_seed(4)
        model.zero_grad()
        model(ids, labels=ids, use_cache=False).loss.backward()
        gradients.append(model.model.embed_tokens.weight.grad.clone())
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)


def test_a_saved_model_has_the_published_names_and_comes_back(folder: Callable[..., Path], tmp_path: Path) -> None:
    model = load(folder())
    model.save_pretrained(tmp_path / "saved")
    assert "auto_map" not in json.loads((tmp_path / "saved" / "config.json").read_text())
    again = load(tmp_path / "saved")
    ids = torch.tensor([[1, 7, 30]])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, again(ids).logits)


def test_random_weights_are_drawn_as_llamas() -> None:
    values = {**PUBLISHED, "hidden_size": 64, "intermediate_size": 256, "size_experts": None}
    config = AutoConfig.for_model(**values)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    assert model.model.layers[0].mlp.calculator["experts"].weight_up[0].shape == (64, 64)
    for name, weight in model.named_parameters():
        if "layernorm" not in name and "norm.weight" not in name and weight.numel() > 1000:
            assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.1), name


def test_what_cannot_be_built_is_refused_with_every_reason() -> None:
    wrong = {
        "gate_type": "SwitchBalancedGate",
        "gate_network": "deep",
        "calculator_type": "SwitchDropTokenCalculator",
        "add_weight_norm": True,
        "num_selects": 5,
        "size_experts": [[32, 32]],
        "score_scale_factor": [1.0],
    }
    with pytest.raises(CheckpointError) as caught:
        AutoConfig.for_model(**{**PUBLISHED, **wrong})
    for key in wrong:
        assert key in str(caught.value)
    with pytest.raises(CheckpointError, match="multiple of num_experts"):
        LlamaMoeConfig(intermediate_size=65, num_experts=4)
