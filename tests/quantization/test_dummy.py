"""Random models of a config's true size: right types, right bytes, right tables, no full copy, trainable."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    Gemma2Config,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
    WhisperConfig,
)

from nota_cli.errors import RecipeError, UsageError
from nota_cli.quantization.dummy import dummy_decoder, dummy_init, logical_parameters, packed_tensors
from nota_cli.quantization.gptq import count_quantized, kernel_name, load_gptq_decoder
from nota_cli.quantization.nf4 import count_nf4, load_nf4_decoder

pytest.importorskip("bitsandbytes")

LINEARS = 14
SIZES = dict(vocab_size=80, hidden_size=128, intermediate_size=384, num_hidden_layers=2, num_attention_heads=4)
TOKENS = dict(num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2)
ROPE = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}
CONFIGS = {
    "gemma2": Gemma2Config(**SIZES | TOKENS, head_dim=32, query_pre_attn_scalar=32),
    "llama": LlamaConfig(**SIZES | TOKENS, tie_word_embeddings=True, rope_parameters=ROPE),
    "qwen2": Qwen2Config(**SIZES | TOKENS, tie_word_embeddings=False),
}
GEMMA_2_2B = Gemma2Config(
    vocab_size=256000,
    hidden_size=2304,
    intermediate_size=9216,
    num_hidden_layers=26,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=256,
    query_pre_attn_scalar=256,
)
LLAMA_32_1B = LlamaConfig(
    vocab_size=128256,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=16,
    num_attention_heads=32,
    num_key_value_heads=8,
    tie_word_embeddings=True,
)

everything = pytest.mark.parametrize(
    ("family", "quantization"),
    [("gemma2", "gptq"), ("llama", "nf4"), ("qwen2", "none"), ("qwen2", "gptq"), ("qwen2", "nf4")],
)


@pytest.fixture(scope="module", autouse=True)
def _quick_collection() -> Iterator[None]:
    """gptqmodel collects garbage for every model: half a second, if all that was ever imported is looked through."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def kinds(model: nn.Module) -> dict[str, tuple[torch.dtype, torch.Size]]:
    return {name: (tensor.dtype, tensor.shape) for name, tensor in tensors(model).items()}


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    embeds = torch.randn(2, 5, 128, generator=torch.Generator().manual_seed(1))
    return model(inputs_embeds=embeds.to(model.dtype)).logits


def weight_of(module: nn.Module) -> Tensor:
    """[in, out] of a packed layer, by the library that packed it."""
    if hasattr(module, "qweight"):
        return module.dequantize_weight().float()
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(module.weight.data, module.weight.quant_state).float().T


@everything
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_model_runs_in_every_precision(family, quantization, dtype):
    config = CONFIGS[family]
    model = dummy_decoder(config, quantization, dtype)
    scores = logits(model)
    assert scores.dtype == model.dtype == dtype
    assert torch.isfinite(scores).all()
    assert 0.05 < scores.float().std() < 5
    ids = model.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert ids.shape == (1, 6)
    assert not model.training
    assert count_quantized(model)["quantized"] == (LINEARS if quantization == "gptq" else 0)
    assert count_nf4(model) == (LINEARS if quantization == "nf4" else 0)
    assert kernel_name(model) == ("torch" if quantization == "gptq" else "none")
    assert logical_parameters(model) == sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())


@everything
def test_the_meta_device_gives_the_same_types_and_shapes(family, quantization):
    for dtype in (torch.float32, torch.bfloat16):
        meta = dummy_decoder(CONFIGS[family], quantization, dtype, "meta")
        assert all(tensor.is_meta for tensor in tensors(meta).values())
        assert all(tensor.is_meta for module in meta.modules() for tensor in packed_tensors(module))
        real = dummy_decoder(CONFIGS[family], quantization, dtype)
        assert kinds(meta) == kinds(real)
        for name, module in meta.named_modules():
            sizes = [tensor.nbytes for tensor in packed_tensors(module)]
            assert sizes == [tensor.nbytes for tensor in packed_tensors(real.get_submodule(name))]


@everything
def test_computed_buffers_norms_and_ties_are_those_of_a_really_built_model(family, quantization):
    config = CONFIGS[family]
    for dtype in (torch.float32, torch.bfloat16):
        real = AutoModelForCausalLM.from_config(config, dtype=dtype)
        model = dummy_decoder(config, quantization, dtype)
        assert dict(real.named_buffers()).keys() <= dict(model.named_buffers()).keys()
        for name, tensor in tensors(model).items():
            if "norm" in name or name in dict(real.named_buffers()):
                expected = tensors(real)[name]
                assert tensor.dtype == expected.dtype
                assert torch.equal(tensor, expected), name
        tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        assert tied == (real.get_output_embeddings().weight is real.get_input_embeddings().weight)
        assert model.config._attn_implementation == ("eager" if family == "gemma2" else "sdpa")


@pytest.mark.parametrize(("family", "quantization"), [("gemma2", "gptq"), ("qwen2", "nf4")])
def test_packed_weights_stand_for_numbers_of_the_usual_size(family, quantization):
    model = dummy_decoder(CONFIGS[family], quantization, torch.float32)
    seen = []
    for module in model.modules():
        if packed_tensors(module):
            weight = weight_of(module)
            assert weight.shape == (module.in_features, module.out_features)
            assert abs(weight.std() - 0.02) < 0.001
            assert abs(weight.mean()) < 0.004
            assert weight.unique().numel() > 16
            seen.append(weight)
    assert len(seen) == LINEARS
    assert not any(torch.equal(seen[0], other) for other in seen[1:] if other.shape == seen[0].shape)
    again, other = (dummy_decoder(CONFIGS[family], quantization, torch.float32, seed=seed) for seed in (0, 1))
    assert torch.equal(logits(model), logits(again))
    assert not torch.equal(logits(model), logits(other))


@pytest.mark.parametrize(("bits", "group_size"), [(2, 32), (3, 128), (4, -1), (4, 64), (8, 128)])
def test_gptq_packs_any_bits_and_groups(bits, group_size):
    model = dummy_decoder(CONFIGS["llama"], "gptq", torch.float32, bits=bits, group_size=group_size)
    layer = model.model.layers[1].mlp.down_proj
    groups = 1 if group_size < 0 else 384 // group_size
    assert layer.qweight.nbytes == 384 * 128 * bits // 8
    assert layer.qzeros.nbytes == groups * 128 * bits // 8
    assert layer.scales.shape == (groups, 128)
    weight = layer.dequantize_weight()
    codes = (weight.view(groups, -1, 128) / layer.scales[:, None]).round()
    assert codes.min() == -(2 ** (bits - 1))
    assert codes.max() == 2 ** (bits - 1) - 1
    assert abs(weight.std() - 0.02) < 0.002
    assert torch.isfinite(logits(model)).all()


def test_bytes_are_those_of_the_formats():
    gptq = dummy_decoder(GEMMA_2_2B, "gptq", torch.float16, "meta")
    for module in filter(packed_tensors, gptq.modules()):
        rows, columns = module.in_features, module.out_features
        scales = rows // 128 * columns  # two bytes each, and half a byte of zero point
        expected = rows * columns // 2 + scales * 2 + scales // 2 + 4 * rows + 2 * 8 * 4  # groups, and bit positions
        assert sum(tensor.nbytes for tensor in packed_tensors(module)) == expected
    nf4 = dummy_decoder(LLAMA_32_1B, "nf4", torch.bfloat16, "meta")
    for module in filter(packed_tensors, nf4.modules()):
        weights = module.in_features * module.out_features
        tables = 4 * 16 + 4 * 256 + 4  # codes, codes of scales, mean scale
        expected = weights // 2 + weights // 64 + 4 * (weights // 64 // 256) + tables
        assert sum(tensor.nbytes for tensor in packed_tensors(module)) == expected


@pytest.mark.parametrize(
    ("config", "quantization", "parameters"),
    [(GEMMA_2_2B, "gptq", 2_614_341_888), (GEMMA_2_2B, "none", 2_614_341_888), (LLAMA_32_1B, "nf4", 1_235_814_400)],
)
def test_published_models_have_their_published_number_of_parameters(config, quantization, parameters):
    model = dummy_decoder(config, quantization, torch.bfloat16, "meta")
    assert logical_parameters(model) == parameters
    assert all(tensor.is_meta for tensor in tensors(model).values())


@contextmanager
def largest_float_tensor() -> Iterator[list[int]]:
    """Number of elements of the largest floating-point tensor that an operation gave memory to inside."""
    largest = [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor) and result.is_floating_point() and not result.is_meta:
                largest[0] = max(largest[0], result.numel())
            return result

    with Watch():
        yield largest


@pytest.mark.parametrize("quantization", ["gptq", "nf4"])
def test_no_weight_that_is_packed_is_ever_there_in_full(quantization):
    config = LlamaConfig(**{**SIZES, **TOKENS, "hidden_size": 512, "intermediate_size": 8192})
    weight = 512 * 8192
    with largest_float_tensor() as largest:
        dummy_decoder(config, "none", torch.float32)
    assert largest[0] == weight
    with largest_float_tensor() as largest:
        model = dummy_decoder(config, quantization, torch.float32)
    assert largest[0] < weight / 2
    assert logical_parameters(model) > 12 * weight / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_gptq_dummy_written_as_a_folder_loads_as_the_same_model(dtype, tmp_path):
    model = dummy_decoder(CONFIGS["qwen2"], "gptq", dtype)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    for name in weights:
        if name.endswith("qzeros"):
            weights[name] = weights[name] - 0x11111111  # files hold the zero points less one
        elif name.endswith("scales"):
            weights[name] = weights[name].half()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model.config.save_pretrained(tmp_path)
    loaded = load_gptq_decoder(tmp_path, dtype=dtype)
    assert kinds(loaded) == kinds(model)
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_nf4_dummy_saved_loads_as_the_same_model(dtype, tmp_path):
    model = dummy_decoder(CONFIGS["qwen2"], "nf4", dtype)
    model.save_pretrained(tmp_path)
    loaded = load_nf4_decoder(tmp_path, dtype)
    assert kinds(loaded) == kinds(model)
    assert torch.equal(logits(loaded), logits(model))


@everything
def test_lora_trains_on_it(family, quantization):
    from peft import LoraConfig, get_peft_model

    model = dummy_decoder(CONFIGS[family], quantization, torch.float32)
    torch.manual_seed(0)
    settings = LoraConfig(r=8, lora_alpha=32, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(model, settings)
    prefix = nn.Parameter(torch.randn(2, 6, 128))
    labels = torch.randint(0, 80, (2, 6))
    optimizer = torch.optim.AdamW([*(p for p in adapted.parameters() if p.requires_grad), prefix], lr=1e-2)
    losses = []
    for _ in range(20):
        loss = adapted(inputs_embeds=prefix, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert prefix.grad[:, :-1].abs().sum() > 0
    adapters = sum(parameter.numel() for name, parameter in adapted.named_parameters() if "lora_" in name)
    assert logical_parameters(adapted) == adapters + logical_parameters(
        dummy_decoder(CONFIGS[family], "none", torch.half)
    )
    meta = get_peft_model(dummy_decoder(CONFIGS[family], quantization, torch.float32, "meta"), settings)
    assert all(parameter.is_meta for parameter in meta.parameters())


def test_what_cannot_be_built_is_named(monkeypatch):
    config = CONFIGS["llama"]
    with pytest.raises(RecipeError, match="'int3' is not one of"):
        dummy_decoder(config, "int3", torch.float32)
    with pytest.raises(RecipeError, match="5 bits in groups of 128"):
        dummy_decoder(config, "gptq", torch.float32, bits=5)
    with pytest.raises(RecipeError, match="no gptq layers can be made"):
        dummy_decoder(config, "gptq", torch.float32, group_size=48)
    with pytest.raises(RecipeError, match=r"decoder\.kernel: 'abacus'"):
        dummy_decoder(config, "gptq", torch.float32, kernel="abacus")
    sizes = dict(vocab_size=80, hidden_size=128, num_hidden_layers=2, num_attention_heads=4)
    with pytest.raises(RecipeError, match="FalconForCausalLM has no layers that nf4 quantizes"):
        dummy_decoder(FalconConfig(**sizes), "nf4", torch.float32)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UsageError, match="pip install"):
        dummy_decoder(config, "nf4", torch.float32)


def test_the_config_is_left_as_it_is():
    config = LlamaConfig(**SIZES, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    before = config.to_dict()
    assert count_quantized(dummy_decoder(config, "gptq", torch.float32))["quantized"] == LINEARS
    assert count_nf4(dummy_decoder(config, "none", torch.float32)) == 0
    assert config.to_dict() == before


def on_meta(build: type[nn.Module], *arguments: object) -> nn.Module:
    with torch.device("meta"):
        return build(*arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_whisper_encoder_has_its_true_positions(dtype):
    from transformers.models.whisper.modeling_whisper import sinusoids

    from nota_cli.models.encoders.whisper import WhisperEncoder

    config = WhisperConfig(
        d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=64, max_source_positions=60
    )
    encoder = dummy_init(on_meta(WhisperEncoder, config), "cpu", dtype)
    real = WhisperEncoder(config)
    assert torch.equal(encoder.embed_positions.weight, sinusoids(60, 32).to(dtype))
    assert {n: p.requires_grad for n, p in encoder.named_parameters()} == {
        n: p.requires_grad for n, p in real.named_parameters()
    }
    assert {parameter.dtype for parameter in encoder.parameters()} == {dtype}
    assert abs(encoder.layers[1].fc1.weight.float().std() - 0.02) < 0.002
    assert torch.equal(encoder.layer_norm.weight, torch.ones(32, dtype=dtype))
    assert not encoder.layers[0].fc1.bias.any()
    states, _ = encoder(torch.randn(2, 80, 120))
    assert torch.isfinite(states).all()


def test_other_modules_are_filled_by_name():
    from nota_cli.models.encoders.beats import BeatsConfig, BeatsEncoder

    sizes = dict(embed_dim=32, encoder_layers=1, encoder_embed_dim=32, encoder_ffn_embed_dim=64)
    beats = BeatsConfig(**sizes, encoder_attention_heads=2, conv_pos=16, conv_pos_groups=4)
    encoder = dummy_init(on_meta(BeatsEncoder, beats), "cpu", torch.bfloat16, seed=4)
    states, _ = encoder(torch.randn(1, 32, 128))
    assert states.dtype == torch.bfloat16
    assert torch.isfinite(states).all()
    assert states.std() > 0.1

    norm = dummy_init(on_meta(nn.BatchNorm2d, 3))
    torch.testing.assert_close(norm(torch.ones(1, 3, 2, 4)), torch.ones(1, 3, 2, 4))
    assert norm.num_batches_tracked == 0
    linear = dummy_init(on_meta(nn.Linear, 64, 64), "meta", torch.float16)
    assert linear.weight.is_meta
    assert linear.weight.dtype == torch.float16


def test_a_buffer_of_unknown_value_is_not_filled_with_anything():
    class Windowed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("window", torch.hann_window(8), persistent=False)

    with pytest.raises(ValueError, match="Windowed: the value of the buffer 'window' is not known"):
        dummy_init(on_meta(Windowed))


def test_building_is_quiet(capfd, recwarn):
    for quantization in ("none", "gptq", "nf4"):
        dummy_decoder(CONFIGS["llama"], quantization, torch.float32)
    assert capfd.readouterr() == ("", "")
    assert not [warning for warning in recwarn if issubclass(warning.category, UserWarning)]


def test_a_config_without_a_list_of_blocks_is_refused():
    class Strange(PreTrainedConfig):
        pass

    model = on_meta(nn.Sequential)
    model.config = Strange(num_hidden_layers=3)
    from nota_cli.quantization.gptq import _blocks

    with pytest.raises(RecipeError, match="no list of 3 blocks"):
        _blocks(model)
