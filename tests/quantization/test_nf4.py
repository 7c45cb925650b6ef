"""nf4 decoders: folders already quantized and folders quantized on the fly, saved, damaged, and trained through."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nota_cli.errors import CheckpointError, UsageError
from nota_cli.quantization.nf4 import count_nf4, load_nf4_decoder, repack_weights

pytest.importorskip("bitsandbytes")

LINEARS = 14
QUERY = "model.layers.0.self_attn.q_proj.weight"
# What unsloth's folders for Llama 3 say of themselves; written by transformers 4.
PUBLISHED = {
    "_load_in_4bit": True,
    "_load_in_8bit": False,
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_storage": "uint8",
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "llm_int8_enable_fp32_cpu_offload": False,
    "llm_int8_has_fp16_weight": False,
    "llm_int8_skip_modules": None,
    "llm_int8_threshold": 6.0,
    "load_in_4bit": True,
    "load_in_8bit": False,
    "quant_method": "bitsandbytes",
}


def make_model(kind: str) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    sizes = dict(vocab_size=80, hidden_size=128, intermediate_size=320, num_hidden_layers=2, num_attention_heads=4)
    rest = dict(num_key_value_heads=2, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2)
    torch.manual_seed(0)
    model = (
        LlamaForCausalLM(LlamaConfig(**sizes | rest))
        if kind == "llama"
        else Qwen2ForCausalLM(Qwen2Config(**sizes | rest))
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, parameter.shape[1] ** -0.5) if parameter.ndim == 2 else parameter.add_(0.1)
    return model.eval()


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def full(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "full"
    make_model(request.param).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def quantized(tmp_path_factory) -> Path:
    """A quantized Llama, saved."""
    folder = tmp_path_factory.mktemp("llama")
    make_model("llama").save_pretrained(folder / "full")
    load_nf4_decoder(folder / "full").save_pretrained(folder / "nf4")
    return folder / "nf4"


@pytest.fixture
def damaged(quantized: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the quantized folder with its tensors or its config changed."""

    def change(tensors: Callable[[dict], object] | None = None, **quantization: object) -> Path:
        folder = tmp_path / "damaged"
        shutil.copytree(quantized, folder)
        if tensors:
            weights = load_file(folder / "model.safetensors")
            tensors(weights)
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"].update(quantization)
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return change


def embeddings(batch: int = 2, length: int = 6, seed: int = 1) -> Tensor:
    return torch.randn(batch, length, 128, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model: nn.Module, embeds: Tensor, **inputs: Tensor) -> Tensor:
    return model(inputs_embeds=embeds.to(model.dtype), **inputs).logits.float()


def dequantized(model: nn.Module, folder: Path) -> nn.Module:
    """The plain model of `folder` with the weights that the quantized one stands for."""
    from bitsandbytes.functional import dequantize_4bit
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for name, module in model.named_modules():
        if hasattr(getattr(module, "weight", None), "quant_state"):
            weight = dequantize_4bit(module.weight.data, module.weight.quant_state)
            plain.get_submodule(name).weight.data = weight.float()
    return plain


def test_any_folder_is_quantized_on_the_fly_but_for_output_layer_and_embedding(full):
    model = load_nf4_decoder(str(full))
    assert count_nf4(model) == LINEARS
    assert not model.training
    assert model.get_input_embeddings().weight.dtype == torch.float32
    plain = dequantized(model, full)
    weights = load_file(full / "model.safetensors")
    for name, parameter in plain.named_parameters():
        error = (parameter - weights[name]).norm() / parameter.norm()
        assert (0.05 < error < 0.12) if "proj.weight" in name else error == 0, name
    torch.testing.assert_close(logits(model, embeddings()), logits(plain, embeddings()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_saved_model_comes_back_with_the_same_outputs(full, dtype, tmp_path):
    model = load_nf4_decoder(full, dtype)
    before = logits(model, embeddings())
    model.save_pretrained(tmp_path / "nf4")
    again = load_nf4_decoder(tmp_path / "nf4", dtype)
    assert count_nf4(again) == LINEARS
    assert torch.equal(before, logits(again, embeddings()))
    after = {name: (tensor.dtype, tensor.shape) for name, tensor in again.state_dict().items()}
    assert after == {name: (tensor.dtype, tensor.shape) for name, tensor in model.state_dict().items()}


def test_arithmetic_is_in_the_dtype_asked_for_whatever_the_folder_says(damaged, quantized):
    def halve(weights: dict) -> None:
        weights.update({name: weights[name].bfloat16() for name in weights if "norm" in name or "embed" in name})

    folder = damaged(halve, **PUBLISHED)
    exact = logits(load_nf4_decoder(folder), embeddings())
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 0.1), (torch.float16, 0.02)):
        model = load_nf4_decoder(folder, dtype)
        assert model.model.layers[0].mlp.up_proj.compute_dtype == model.dtype == dtype
        assert {parameter.dtype for parameter in model.parameters()} == {torch.uint8, dtype}
        error = (logits(model, embeddings()) - exact).norm() / exact.norm()
        assert error < tolerance


def test_layers_that_a_folder_left_out_stay_out(tmp_path, full):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    skipped = ["lm_head", "model.layers.1.mlp.down_proj"]
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=skipped)
    AutoModelForCausalLM.from_pretrained(full, quantization_config=settings).save_pretrained(tmp_path / "nf4")
    model = load_nf4_decoder(tmp_path / "nf4")
    assert count_nf4(model) == LINEARS - 1
    assert torch.isfinite(logits(model, embeddings())).all()


def test_a_row_gives_the_same_alone_as_padded_in_a_batch(quantized):
    model = load_nf4_decoder(quantized)
    embeds = embeddings(3, 9)
    mask = (torch.arange(9) >= 9 - torch.tensor([[9], [4], [1]])).long()
    together = logits(model, embeds, attention_mask=mask)
    for row, length in enumerate((9, 4, 1)):
        alone = logits(model, embeds[row : row + 1, 9 - length :])
        torch.testing.assert_close(together[row, 9 - length :], alone[0], rtol=1e-4, atol=1e-4)


def test_gradients_pass_the_quantized_layers_also_after_an_evaluation(full):
    model = load_nf4_decoder(full)
    plain = dequantized(model, full)

    def gradient(of: nn.Module) -> Tensor:
        embeds = embeddings().requires_grad_()
        return torch.autograd.grad(of(inputs_embeds=embeds).logits.square().mean(), embeds)[0]

    expected = gradient(plain)
    torch.testing.assert_close(gradient(model), expected, rtol=1e-3, atol=1e-6)
    logits(model, embeddings())
    torch.testing.assert_close(gradient(model.train()), expected, rtol=1e-3, atol=1e-6)


def test_lora_learns_on_it(full):
    from peft import LoraConfig, get_peft_model

    model = load_nf4_decoder(full)
    torch.manual_seed(0)
    targets = ["q_proj", "v_proj", "gate_proj", "down_proj"]
    adapted = get_peft_model(model, LoraConfig(r=8, lora_alpha=32, target_modules=targets, task_type="CAUSAL_LM"))
    prefix = nn.Parameter(embeddings())
    labels = torch.randint(0, 80, (2, 6), generator=torch.Generator().manual_seed(3))
    optimizer = torch.optim.AdamW([*(p for p in adapted.parameters() if p.requires_grad), prefix], lr=5e-3)
    losses = []
    for _ in range(20):
        loss = adapted(inputs_embeds=prefix, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert prefix.grad[:, :-1].abs().min() > 0  # what the last place says is asked of nobody
    assert all("lora_" in name for name, parameter in adapted.named_parameters() if parameter.grad is not None)


def test_repacked_weights_give_nearly_the_same_where_the_processor_has_them(quantized):
    from bitsandbytes.functional import has_avx512bf16

    model = load_nf4_decoder(quantized, torch.bfloat16)
    exact = logits(model, embeddings())
    count = repack_weights(model)
    assert count == (LINEARS if has_avx512bf16() else 0)
    fast = logits(model, embeddings())
    assert (fast - exact).norm() < 0.05 * exact.norm()


def test_loading_is_quiet(quantized, capfd, recwarn):
    load_nf4_decoder(quantized)
    assert capfd.readouterr() == ("", "")
    assert not recwarn


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda weights: weights.pop("model.norm.weight"), "missing: model.norm.weight"),
        (lambda weights: weights.update(extra=torch.ones(3)), "unexpected: extra"),
        (lambda weights: weights.update({"model.norm.weight": torch.ones(3)}), "of another shape: model.norm.weight"),
        (lambda weights: weights.pop(QUERY), f"missing: {QUERY}"),
        (lambda weights: weights.pop(f"{QUERY}.absmax"), f"missing: {QUERY}.absmax"),
        (lambda weights: weights.pop(f"{QUERY}.nested_absmax"), f"missing: {QUERY}.nested_absmax"),
        (
            lambda weights: weights.pop(f"{QUERY}.quant_state.bitsandbytes__nf4"),
            f"missing: {QUERY}.quant_state.bitsandbytes__nf4",
        ),
        (
            lambda weights: [weights.pop(name) for name in list(weights) if name.startswith(QUERY)],
            f"missing: {QUERY}",
        ),
        (lambda weights: weights.update({QUERY: weights[QUERY][:100].clone()}), f"of another shape: {QUERY}"),
        (
            lambda weights: weights.update({f"{QUERY}.absmax": weights[f"{QUERY}.absmax"][:9].clone()}),
            f"of another shape: {QUERY}.absmax",
        ),
        (
            lambda weights: weights.update({f"{QUERY}.nested_absmax": torch.ones(7)}),
            f"of another shape: {QUERY}.nested_absmax",
        ),
        (
            lambda weights: (
                [weights.pop(name) for name in list(weights) if name.startswith(QUERY)],
                weights.update({QUERY: torch.zeros(128, 128)}),
            ),
            f"not quantized, though config.json says so: {QUERY}",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(damaged, damage, named):
    with pytest.raises(CheckpointError, match=named):
        load_nf4_decoder(damaged(damage))


@pytest.mark.parametrize(
    ("quantization", "named"),
    [
        ({"quant_method": "gptq"}, "quantized with gptq"),
        ({"load_in_4bit": False, "load_in_8bit": True}, "not in 4 bits"),
    ],
)
def test_folders_quantized_otherwise_are_refused(damaged, quantization, named):
    with pytest.raises(CheckpointError, match=named):
        load_nf4_decoder(damaged(**quantization))


def test_what_is_no_model_is_refused(damaged, tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_nf4_decoder(tmp_path / "nowhere")
    folder = damaged()
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=str(folder)):
        load_nf4_decoder(folder)
    (folder / "config.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"config\.json: not"):
        load_nf4_decoder(folder)


def test_without_bitsandbytes_the_extra_is_named(quantized, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UsageError, match=r'pip install "nota-cli\[nf4\]"'):
        load_nf4_decoder(quantized)
