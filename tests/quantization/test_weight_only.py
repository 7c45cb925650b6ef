"""Linear layers of 8 and 4 bits: close to what they stand for, counted right, exact where they promise to be."""

import copy
import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import Gemma2Config

from helpers.networks import load_network
from nota_cli.errors import RecipeError
from nota_cli.features.batch import extract
from nota_cli.models.build import build
from nota_cli.models.families.salmonn import Salmonn
from nota_cli.prompts import Query
from nota_cli.quantization import weight_only
from nota_cli.quantization.dummy import dummy_decoder, packed_tensors
from nota_cli.quantization.gptq import kernel_name
from nota_cli.quantization.weight_only import Int4PackLinear, PackedLinear, quantize_linears, repack_gptq
from nota_cli.recipe.load import load_recipe
from nota_cli.recipe.schema import Recipe

TORCH_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def relative(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(("bits", "bound"), [(8, 0.008), (4, 0.11)])
@pytest.mark.parametrize(("rows", "columns"), [(96, 256), (8, 64), (33, 24), (5, 2)])
def test_weights_are_the_nearest_that_the_bits_allow(bits: int, bound: float, rows: int, columns: int) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(columns, rows)
    packed = PackedLinear.quantize(linear, bits)
    assert relative(packed.dequantize(), linear.weight) < bound
    step = 2 * linear.weight.abs().max() / (254 if bits == 8 else 15)
    assert (packed.dequantize() - linear.weight).abs().max() < 1.05 * step


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", TORCH_TYPES)
@pytest.mark.parametrize("size", [(64, 96), (1500, 1024)])  # at once, and in blocks
def test_a_packed_layer_multiplies_with_its_dequantized_weight(
    bits: int, dtype: torch.dtype, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    packed = PackedLinear.quantize(nn.Linear(size[1], size[0]).to(dtype), bits)
    for shape in ((3, 7), (1, 1), (2, 0)):
        x = torch.randn(*shape, size[1]).to(dtype)
        exact = x.double() @ packed.dequantize().double().T + packed.bias.double()
        out = packed(x)
        assert out.dtype == dtype
        assert out.shape == (*shape, size[0])
        if x.numel():
            assert relative(out, exact) < {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 5e-3}[dtype]


def test_degenerate_weights_stay_finite() -> None:
    linear = nn.Linear(64, 4)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([0.0, 1.0, -2.0, 1e-30])[:, None].expand(4, 64))
    for bits in (8, 4):
        weight = PackedLinear.quantize(linear, bits).dequantize()
        assert weight[0].abs().max() == 0
        assert torch.allclose(weight[1:3], linear.weight[1:3], rtol=5e-3)
        assert weight.isfinite().all()


def test_convolutions_and_odd_layers_stay_and_a_shared_layer_stays_shared() -> None:
    shared = nn.Linear(32, 32)
    module = nn.ModuleDict({"conv": nn.Conv1d(4, 4, 3), "odd": nn.Linear(7, 4), "one": shared, "two": shared})
    assert quantize_linears(module, "none") == 0
    assert quantize_linears(module, "int4") == 1
    assert type(module["conv"]) is nn.Conv1d
    assert type(module["odd"]) is nn.Linear
    assert module["one"] is module["two"]
    with pytest.raises(RecipeError, match="int2"):
        quantize_linears(module, "int2")


def test_a_state_dict_holds_plain_weights_and_packing_them_again_loses_little() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(128, 48), nn.GELU(), nn.Linear(48, 8, bias=False))
    names = set(plain.state_dict())
    for quantization, bound in (("int8", 1e-3), ("int4", 0.02)):
        packed = nn.Sequential(nn.Linear(128, 48), nn.GELU(), nn.Linear(48, 8, bias=False))
        packed.load_state_dict(plain.state_dict())
        quantize_linears(packed, quantization)
        state = packed.state_dict()
        assert set(state) == names
        again = nn.Sequential(nn.Linear(128, 48), nn.GELU(), nn.Linear(48, 8, bias=False))
        again.load_state_dict(state)
        quantize_linears(again, quantization)
        x = torch.randn(5, 128)
        assert relative(again(x), packed(x)) < bound
        with pytest.raises(RuntimeError, match="load weights before they are packed"):
            packed.load_state_dict(plain.state_dict(), strict=False)


def with_encoders(path: Path, **changes: object) -> Recipe:
    recipe = load_recipe(str(path))
    parts = {name: getattr(recipe, name).model_copy(update=changes) for name in ("speech_encoder", "audio_encoder")}
    return recipe.model_copy(update=parts)


AUDIO = {
    "beats": None,
    "ced": dict(embed_dim=32, depth=1, num_heads=2, target_length=64),
    "eat": dict(embed_dim=32, depth=1, num_heads=2),
}


def clips() -> list:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(count, generator=generator) * 0.1).numpy() for count in (40000, 20000, 29000)]


def encoded(model: Salmonn) -> Tensor:
    spec = model.preprocessor()
    features = extract(clips(), spec.mel_bins, front_end=spec.front_end, pad=spec.pad)
    with torch.inference_mode():
        assert len(model.generate(features, [Query("asr")] * 3)) == 3
        result = model.encode(features)
    states = [result.speech_states[result.speech_mask].float(), result.audio_states[result.audio_mask].float()]
    return torch.cat([part.flatten() / part.norm() for part in states])


@pytest.mark.parametrize("kind", list(AUDIO))
def test_encoders_in_half_precision_and_packed_stay_close_to_the_float_ones(kind: str, tiny_recipe: Path) -> None:
    def make(**changes: object) -> Tensor:
        recipe = with_encoders(tiny_recipe, **changes)
        if AUDIO[kind] is not None:
            audio = recipe.audio_encoder.model_copy(update={"kind": kind, "config": AUDIO[kind]})
            recipe = recipe.model_copy(update={"audio_encoder": audio})
        torch.manual_seed(0)
        return encoded(build(recipe))

    plain = make()
    assert relative(make(dtype="bfloat16"), plain) < 0.03
    assert relative(make(dtype="float16"), plain) < 0.004
    assert relative(make(quantization="int8"), plain) < 0.03
    assert relative(make(quantization="int4"), plain) < 0.35
    assert relative(make(quantization="int8", dtype="bfloat16"), plain) < 0.04


@pytest.mark.parametrize(("quantization", "label"), [("int8", "8-bit"), ("int4", "4-bit")])
def test_the_inventory_counts_packed_encoders(quantization: str, label: str, tiny_recipe: Path) -> None:
    plain = build(load_recipe(str(tiny_recipe))).parts()
    recipe = with_encoders(tiny_recipe, quantization=quantization, dtype="bfloat16")
    packed = build(recipe).parts()
    dummy = build(recipe, load_format="dummy").parts()
    meta = build(recipe, "meta", load_format="dummy").parts()
    assert packed == dummy == meta
    for before, after in zip(plain[:2], packed[:2], strict=True):
        assert after.parameters == before.parameters
        assert after.by_type[label] > 0
    linears = [m for m in build(recipe).speech_encoder.modules() if isinstance(m, PackedLinear)]
    weights = sum(layer.in_features * layer.out_features for layer in linears)
    scales = weights // 32  # one for 32 weights: the tiny encoder is 32 and 64 wide
    wide = sum(layer.in_features * layer.out_features for layer in linears if layer.in_features == 64)
    scales -= wide // 64
    expected = weights + 2 * scales if quantization == "int8" else weights // 2 + 3 * scales
    assert packed[0].by_type[label] == expected


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_a_checkpoint_saved_from_packed_encoders_loads_again(
    quantization: str, tiny_recipe: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    recipe = with_encoders(tiny_recipe, quantization=quantization)
    model = build(recipe.model_copy(update={"checkpoint": str(tiny_checkpoint)}))
    assert any(isinstance(module, PackedLinear) for module in model.audio_encoder.modules())
    model.save_pretrained(tmp_path / "again")
    again = load_network(tmp_path / "again")
    assert again.recipe.speech_encoder.quantization == quantization
    assert relative(encoded(again), encoded(model)) < 2e-3


def test_training_keeps_frozen_encoders_whole_and_refuses_to_train_packed_ones(tiny_recipe: Path) -> None:
    with pytest.raises(RecipeError, match="speech_encoder: int8 weights cannot be trained"):
        build(with_encoders(tiny_recipe, quantization="int8"), purpose="train")
    frozen = build(with_encoders(tiny_recipe, quantization="int8", train=False), purpose="train")
    assert not any(isinstance(module, PackedLinear) for module in frozen.modules())


def with_connector(path: Path, **changes: object) -> Recipe:
    recipe = load_recipe(str(path))
    return recipe.model_copy(update={"connector": recipe.connector.model_copy(update=changes)})


def prompt(model: Salmonn) -> Tensor:
    spec = model.preprocessor()
    features = extract(clips(), spec.mel_bins, front_end=spec.front_end, pad=spec.pad)
    with torch.inference_mode():
        embeds, mask = model.prompt_embeds(features, [Query("asr")] * 3)
    return embeds[mask.bool()]


@pytest.mark.parametrize(("quantization", "bound"), [("int8", 0.02), ("int4", 0.2)])
@pytest.mark.parametrize("summary", [0, 2])
def test_a_packed_connector_tells_nearly_the_same(
    quantization: str, bound: float, summary: int, tiny_recipe: Path, tmp_path: Path
) -> None:
    plain = build(with_connector(tiny_recipe, summary=summary))
    plain.save_pretrained(tmp_path / "plain")
    recipe = with_connector(tiny_recipe, summary=summary, quantization=quantization)
    packed = build(recipe.model_copy(update={"checkpoint": str(tmp_path / "plain")}), purpose="run")
    assert not [module for module in packed.connector.modules() if isinstance(module, nn.Linear)]
    assert 0 < relative(prompt(packed), prompt(plain)) < bound
    packed.save_pretrained(tmp_path / "again")
    again = load_network(tmp_path / "again")
    assert again.recipe.connector.quantization == quantization
    assert relative(prompt(again), prompt(packed)) < bound / 2  # rounded again, from what was rounded


def test_training_refuses_a_packed_connector_and_keeps_a_frozen_one_whole(tiny_recipe: Path) -> None:
    with pytest.raises(RecipeError, match="connector: int8 weights cannot be trained"):
        build(with_connector(tiny_recipe, quantization="int8"), purpose="train")
    frozen = build(with_connector(tiny_recipe, quantization="int8", train=False), purpose="train")
    assert not any(isinstance(module, PackedLinear) for module in frozen.connector.modules())


def gptq_model(group: int, dtype: torch.dtype = torch.float32, shuffled: bool = False) -> nn.Module:
    sizes = dict(vocab_size=64, hidden_size=256, intermediate_size=512, num_hidden_layers=1, head_dim=64)
    config = Gemma2Config(**sizes, num_attention_heads=4, num_key_value_heads=2)
    model = dummy_decoder(config, "gptq", dtype, group_size=group)
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if "qzeros" in module._buffers:  # any zero point, as asymmetric files have
            shape = module.qzeros.shape
            module.qzeros = torch.randint(-(2**31), 2**31, shape, generator=generator, dtype=torch.int32)
            if shuffled:  # desc_act
                module.g_idx = module.g_idx[torch.randperm(len(module.g_idx), generator=generator)]
    return model


def layers(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if packed_tensors(module)}


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_gptq_layers_multiply_as_their_definition_says(group: int, shuffled: bool) -> None:
    model = gptq_model(group, shuffled=shuffled)
    weights = {name: layer.dequantize_weight().detach().clone() for name, layer in layers(model).items()}
    rough = copy.deepcopy(model)
    assert repack_gptq(model, "blockwise") == len(weights) == 7
    assert repack_gptq(rough, "int4pack") == 7
    for name, layer in layers(model).items():
        assert torch.equal(layer.dequantize().T, weights[name])  # bit by bit
        other = rough.get_submodule(name)
        assert isinstance(other, Int4PackLinear)
        for shape in ((1, 1), (3, 5), (130,)):
            x = torch.randn(*shape, layer.in_features)
            exact = x.double() @ weights[name].double()
            assert relative(layer(x), exact) < 1e-6
            assert relative(other(x.bfloat16()), exact) < 0.006
            assert other(x).dtype == torch.float32
            assert relative(other(x), exact) < 0.006


def test_repacking_below_lora_changes_nothing_but_the_product() -> None:
    settings = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    embeds = torch.randn(2, 9, 256)
    for kernel, bound in (("blockwise", 1e-5), ("int4pack", 0.03)):
        torch.manual_seed(0)
        model = get_peft_model(gptq_model(32), settings).eval()
        with torch.inference_mode():
            before = model(inputs_embeds=embeds).logits
            with model.disable_adapter():
                without = model(inputs_embeds=embeds).logits
            assert repack_gptq(model, kernel) == 7
            assert kernel_name(model) == "none"  # of gptqmodel's layers none is left
            assert relative(model(inputs_embeds=embeds).logits, before) < bound
            with model.disable_adapter():
                assert relative(model(inputs_embeds=embeds).logits, without) < bound
        assert relative(without, before) > 0.05


def test_no_two_full_layers_wait_for_each_other_to_be_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a model's peak while loading is that of both its forms together."""
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(5)))
    weights = [weakref.ref(layer.weight) for layer in model]
    gptq = gptq_model(32)
    words = [weakref.ref(layer.qweight) for layer in layers(gptq).values()]
    left: dict[str, list[int]] = {"quantize": [], "_from_gptq": []}

    def watch(owner: object, name: str, tensors: list[weakref.ref]) -> None:
        pack: Callable[..., nn.Module] = getattr(owner, name)

        def watched(*args: object) -> nn.Module:
            left[name].append(sum(tensor() is not None for tensor in tensors))
            return pack(*args)

        monkeypatch.setattr(owner, name, watched)

    watch(PackedLinear, "quantize", weights)
    watch(weight_only, "_from_gptq", words)
    gc.disable()  # what only a collection frees comes too late
    try:
        assert quantize_linears(model, "int8") == 5
        assert repack_gptq(gptq, "int4pack") == 7
    finally:
        gc.enable()
    assert left == {"quantize": [5, 4, 3, 2, 1], "_from_gptq": [7, 6, 5, 4, 3, 2, 1]}


def test_int4pack_takes_no_more_memory_than_gptq_and_leaves_what_it_cannot_take() -> None:
    model = gptq_model(128, torch.bfloat16)
    before = sum(tensor.nbytes for layer in layers(model).values() for tensor in packed_tensors(layer))
    assert repack_gptq(model, "int4pack") == 7
    after = sum(tensor.nbytes for layer in layers(model).values() for tensor in packed_tensors(layer))
    assert after <= before
    assert repack_gptq(gptq_model(16), "int4pack") == 0
    assert repack_gptq(gptq_model(16), "blockwise") == 7
    with pytest.raises(RecipeError, match="int4pack, blockwise"):
        repack_gptq(model, "marlin")


@pytest.mark.parametrize(
    ("kernel", "dtype", "expected"),
    [
        ("auto", "bfloat16", "int4pack"),
        ("torch", "bfloat16", "torch"),
        ("auto", "float32", "blockwise"),
        ("blockwise", "bfloat16", "blockwise"),
        ("int4pack", "float32", "int4pack"),
    ],
)
def test_the_recipe_chooses_the_kernel(kernel: str, dtype: str, expected: str, tiny_recipe: Path) -> None:
    recipe = load_recipe(str(tiny_recipe))
    config = {**recipe.decoder.config, "hidden_size": 128, "intermediate_size": 256}
    spec = dict(train=False, quantization="gptq", kernel=kernel, dtype=dtype, config=config)
    recipe = recipe.model_copy(update={"decoder": recipe.decoder.model_copy(update=spec)})
    model = build(recipe, load_format="dummy")
    assert model.decoder.kernel == expected
    encoded(model)
    if kernel in ("int4pack", "blockwise"):
        with pytest.raises(RecipeError, match="is for the CPU"):
            build(recipe, "cuda", load_format="dummy")
