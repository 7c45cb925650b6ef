"""GPTQ of a tiny Gemma 2: better than rounding, faithful after loading, trainable, quiet, and free of compilers."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM, GPTQConfig

from helpers.paths import REPOSITORY
from nota_cli.compression.gptq import QuantizeReport, quantize_to_folder
from nota_cli.errors import CheckpointError, DataError, RecipeError, UsageError
from nota_cli.quantization import gptq

LAYERS, WIDTH, LINEARS = 2, 160, 14


def make_model(**changes) -> Gemma2ForCausalLM:
    sizes = dict(vocab_size=80, hidden_size=WIDTH, intermediate_size=480, num_hidden_layers=LAYERS)
    heads = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=32, query_pre_attn_scalar=32, sliding_window=16)
    rest = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2, attn_implementation="eager")
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(Gemma2Config(**sizes | heads | rest | changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.5 * parameter.shape[1] ** -0.5)
    return model


def make_batches(count: int = 4, seed: int = 1, padding: float = 100.0) -> list[dict[str, Tensor]]:
    """Left-padded embeddings that vary in few directions, as projected audio does; loud garbage under the padding."""
    directions = torch.randn(24, WIDTH, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        embeds = torch.randn(6, 40, 24, generator=generator) @ directions / 5
        embeds += 0.1 * torch.randn(6, 40, WIDTH, generator=generator)
        lengths = torch.randint(12, 41, (6, 1), generator=generator)
        mask = (torch.arange(40) >= 40 - lengths).long()
        embeds[mask == 0] = padding
        batches.append({"inputs_embeds": embeds, "attention_mask": mask})
    return batches


@pytest.fixture(scope="module")
def model() -> Gemma2ForCausalLM:
    return make_model()


@pytest.fixture(scope="module")
def quantized(model, tmp_path_factory) -> QuantizeReport:
    return quantize_to_folder(model, None, make_batches(), tmp_path_factory.mktemp("gptq") / "decoder")


@pytest.fixture
def loaded(quantized):
    return gptq.load_gptq_decoder(quantized.folder)


def dequantized(folder: Path, model: nn.Module) -> nn.Module:
    """`model` with the weights that the file in `folder` stands for by the format's definition, in plain layers."""
    plain = copy.deepcopy(model)
    tensors = load_file(folder / "model.safetensors")
    for name in [key.removesuffix(".qweight") for key in tensors if key.endswith(".qweight")]:
        words, zeros, scales, groups = (tensors[f"{name}.{part}"] for part in ("qweight", "qzeros", "scales", "g_idx"))
        shifts = torch.arange(0, 32, 4)
        codes = ((words[:, None, :] >> shifts[:, None]) & 15).reshape(-1, words.shape[1])
        middle = ((zeros[:, :, None] >> shifts) & 15).reshape(scales.shape) + 1
        weight = scales.float()[groups] * (codes - middle[groups])
        plain.get_submodule(name).weight.data = weight.T.contiguous()
    return plain


def rounded(model: nn.Module, group: int = 32) -> nn.Module:
    """`model` with its blocks' weights rounded to 16 levels, a scale for every `group` inputs."""
    plain = copy.deepcopy(model)
    for module in plain.model.layers.modules():
        if isinstance(module, nn.Linear):
            groups = module.weight.data.reshape(-1, group)
            scale = groups.abs().amax(1, keepdim=True) / 7.5
            codes = (groups / scale).round().clamp(-8, 7)
            module.weight.data = (codes * scale).reshape(module.weight.shape)
    return plain


@torch.no_grad()
def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Logits [N, V] at the places that are not padding."""
    return model(**batch).logits[batch["attention_mask"].bool()]


def test_every_layer_is_better_than_rounding(quantized):
    assert len(quantized.layers) == LINEARS
    assert all(layer.error < layer.rounding_error for layer in quantized.layers)
    assert quantized.error < 0.75 * quantized.rounding_error


def test_the_whole_model_is_better_than_rounding_on_calibration_and_unheard_data(model, loaded):
    for batch in (make_batches()[0], make_batches(1, seed=9)[0]):
        target = logits(model, batch)
        error = (logits(loaded, batch) - target).norm()
        assert error < 0.9 * (logits(rounded(model), batch) - target).norm()
        assert error < 0.25 * target.norm()


def test_reported_errors_are_those_on_what_each_quantized_layer_sees(model, quantized, loaded):
    plain = dequantized(quantized.folder, model)
    seen: dict[str, list[Tensor]] = {layer.name: [] for layer in quantized.layers}
    for name, inputs in seen.items():
        loaded.get_submodule(name).register_forward_pre_hook(lambda _, args, to=inputs: to.append(args[0]))
    batches = make_batches()
    for batch in batches:
        logits(loaded, batch)
    mask = torch.cat([batch["attention_mask"] for batch in batches])
    weights = (mask / mask.sum(dim=1, keepdim=True)).sqrt()[mask.bool()].unsqueeze(1)
    for layer in quantized.layers:
        inputs = torch.cat(seen[layer.name])[mask.bool()]
        target = weights * model.get_submodule(layer.name)(inputs)
        error = (weights * plain.get_submodule(layer.name)(inputs) - target).norm() / target.norm()
        assert layer.error == pytest.approx(error.item(), rel=1e-3), layer.name


def test_padding_is_left_out(quantized, model, tmp_path):
    positions = sum(int(batch["attention_mask"].sum()) for batch in make_batches())
    assert {layer.samples for layer in quantized.layers} == {positions}
    other = quantize_to_folder(model, None, make_batches(padding=0.0), tmp_path / "other")
    for one, two in zip(quantized.layers, other.layers, strict=True):
        assert one.error == pytest.approx(two.error, rel=1e-3)


def test_a_long_clip_counts_no_more_than_a_short_one(tmp_path):
    """What enters the first block's q, k and v does not depend on what is before it."""
    model = make_model(num_hidden_layers=1, intermediate_size=32)
    embeds = make_batches(1, padding=0.0)[0]["inputs_embeds"]
    short, long = embeds[:2, -6:], embeds[2:4].repeat(1, 4, 1)

    def words(name: str, *clips: Tensor) -> Tensor:
        batches = [{"inputs_embeds": clip, "attention_mask": torch.ones(clip.shape[:2]).long()} for clip in clips]
        quantize_to_folder(model, None, batches, tmp_path / name)
        tensors = load_file(tmp_path / name / "model.safetensors")
        return torch.cat([tensors[f"model.layers.0.self_attn.{part}_proj.qweight"] for part in "qkv"], dim=1)

    once = words("once", short, long[:, :40])
    repeated, twice = words("repeated", short, long), words("twice", short, long[:, :40], long[:, :40])
    print(float((repeated != once).float().mean()), float((twice != once).float().mean()))
    assert (repeated != once).float().mean() < 0.01  # by rounding
    assert (twice != once).float().mean() > 0.1


def test_the_model_stays_as_it_was(tmp_path):
    model = make_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quantize_to_folder(model, None, make_batches(1), tmp_path / "decoder")
    assert model.training
    assert not hasattr(model.config, "quantization_config")
    assert gptq.count_quantized(model) == {"quantized": 0, "linear": LINEARS + 1, "bits": None, "kernel_class": None}
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_folder_is_in_gptq_v1_format(quantized):
    config = json.loads((quantized.folder / "config.json").read_text())["quantization_config"]
    assert config == json.loads((quantized.folder / "quantize_config.json").read_text())
    expected = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}
    assert expected.items() <= config.items()
    assert config["checkpoint_format"] == "gptq"
    assert "dataset" not in config
    tensors = load_file(quantized.folder / "model.safetensors")
    up = {name.rsplit(".", 1)[1]: value for name, value in tensors.items() if "layers.0.mlp.up_proj" in name}
    assert up["qweight"].shape == (WIDTH // 8, 480)  # eight codes to a word, along the inputs
    assert up["qzeros"].shape == (WIDTH // 32, 480 // 8)
    assert set(up["qzeros"].flatten().tolist()) == {0x77777777}  # the middle of 16 levels, less one as v1 has it
    assert up["scales"].shape == (WIDTH // 32, 480)
    assert up["scales"].dtype == torch.float16
    assert up["g_idx"].tolist() == [i // 32 for i in range(WIDTH)]
    assert tensors["model.embed_tokens.weight"].dtype == torch.float32
    assert "lm_head.weight" not in tensors  # tied to the embedding, stored once
    assert [path.name for path in quantized.folder.parent.iterdir()] == ["decoder"]


def test_transformers_loads_the_folder_by_itself(quantized, loaded):
    config = GPTQConfig(bits=4, backend="torch")
    other = AutoModelForCausalLM.from_pretrained(quantized.folder, quantization_config=config)
    counts = {"quantized": LINEARS, "linear": 1, "bits": 4, "kernel_class": "TorchLinear"}  # linear: the output head
    assert gptq.count_quantized(other) == gptq.count_quantized(loaded) == counts
    assert gptq.kernel_name(other) == gptq.kernel_name(loaded) == "torch"
    for name, value in loaded.state_dict().items():
        assert torch.equal(other.state_dict()[name].float(), value.float()), name


def test_loading_is_exact_in_float32_for_any_batch_size(model, quantized, loaded):
    batch = make_batches(1)[0]
    plain = dequantized(quantized.folder, model)
    torch.testing.assert_close(logits(loaded, batch), logits(plain, batch), atol=1e-6, rtol=0)
    single = [logits(loaded, {name: value[i : i + 1] for name, value in batch.items()}) for i in range(6)]
    torch.testing.assert_close(torch.cat(single), logits(loaded, batch), atol=1e-5, rtol=0)
    assert loaded.lm_head.weight.data_ptr() == loaded.get_input_embeddings().weight.data_ptr()


def test_half_precision_agrees_roughly(model, quantized, loaded):
    batch = make_batches(1)[0]
    half = gptq.load_gptq_decoder(quantized.folder, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    low = logits(half, {**batch, "inputs_embeds": batch["inputs_embeds"].bfloat16()}).float()
    torch.testing.assert_close(low, logits(loaded, batch), atol=0.1, rtol=0)


@pytest.mark.parametrize("autocast", [False, True])
def test_lora_trains_through_the_torch_kernel(loaded, autocast):
    spec = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    tuned = get_peft_model(loaded, spec).train()
    assert gptq.count_quantized(tuned)["quantized"] == LINEARS
    assert gptq.count_quantized(tuned)["linear"] == 1
    weights = {name: value for name, value in tuned.named_parameters() if value.requires_grad}
    assert len(weights) == 2 * 2 * LAYERS
    assert all("lora_" in name for name in weights)
    optimizer = torch.optim.AdamW(weights.values(), lr=1e-2)
    batch = make_batches(1)[0]
    labels = torch.arange(6 * 40).reshape(6, 40) % 80
    losses = []
    for _ in range(6):
        embeds = batch["inputs_embeds"].clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = tuned(inputs_embeds=embeds, attention_mask=batch["attention_mask"], labels=labels).loss
        loss.backward()
        losses.append(loss.item())
        assert (embeds.grad[batch["attention_mask"].bool()] != 0).any(dim=1).all()
        assert all(value.grad.abs().sum() > 0 for name, value in weights.items() if "lora_B" in name)
        optimizer.step()
        if len(losses) > 1:  # before the first step B is zero, so A has no gradient
            assert all(value.grad.abs().sum() > 0 for value in weights.values())
        optimizer.zero_grad()
    assert losses[-1] < losses[0] - 0.05


def test_gradients_are_those_of_plain_layers(model, quantized, loaded):
    batch = make_batches(1)[0]
    gradients = []
    for one in (loaded.train(), dequantized(quantized.folder, model).train()):
        embeds = batch["inputs_embeds"].clone().requires_grad_()
        one(inputs_embeds=embeds, attention_mask=batch["attention_mask"]).logits.square().mean().backward()
        gradients.append(embeds.grad)
    torch.testing.assert_close(*gradients, atol=1e-9, rtol=1e-5)


def test_cached_weights_change_nothing(loaded):
    batch = make_batches(1)[0]
    before = logits(loaded, batch)
    assert gptq.cache_weights(loaded) == LINEARS
    logits(loaded, batch)
    assert torch.equal(logits(loaded, batch), before)


def test_gptq_folders_are_told_from_others(quantized, model, tmp_path):
    assert gptq.is_gptq_folder(quantized.folder)
    assert not gptq.is_gptq_folder(tmp_path / "nothing")
    model.save_pretrained(tmp_path / "plain")
    assert not gptq.is_gptq_folder(tmp_path / "plain")
    with pytest.raises(CheckpointError, match="not a GPTQ checkpoint"):
        gptq.load_gptq_decoder(tmp_path / "plain")
    (tmp_path / "plain" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: not readable JSON"):
        gptq.is_gptq_folder(tmp_path / "plain")


def test_an_old_folder_with_quantize_config_alone_is_read(quantized, loaded, tmp_path):
    old = shutil.copytree(quantized.folder, tmp_path / "old")
    config = json.loads((old / "config.json").read_text())
    del config["quantization_config"]
    (old / "config.json").write_text(json.dumps(config))
    described = {"bits": 4, "group_size": 32, "damp_percent": 0.01, "desc_act": False, "sym": True}
    (old / "quantize_config.json").write_text(json.dumps(described))
    batch = make_batches(1)[0]
    assert gptq.is_gptq_folder(old)
    assert torch.equal(logits(gptq.load_gptq_decoder(old), batch), logits(loaded, batch))


def test_missing_and_damaged_weights_are_named(quantized, tmp_path):
    damaged = shutil.copytree(quantized.folder, tmp_path / "damaged")
    weights = damaged / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.layers.1.mlp.extra"] = tensors.pop("model.layers.1.mlp.up_proj.qweight")
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing: .*up_proj\.qweight\n.*unexpected: .*mlp\.extra"):
        gptq.load_gptq_decoder(damaged)
    words = tensors.pop("model.layers.1.mlp.extra")
    save_file(tensors | {"model.layers.1.mlp.up_proj.qweight": words[:4].clone()}, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"of another shape: model\.layers\.1\.mlp\.up_proj\.qweight"):
        gptq.load_gptq_decoder(damaged)
    with weights.open("rb+") as file:
        file.truncate(5000)
    with pytest.raises(CheckpointError, match="GPTQ decoder"):
        gptq.load_gptq_decoder(damaged)


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [("fast", "is no GPTQ kernel for cpu"), ("marlin", "is no GPTQ kernel for cpu"), ("torch_aten", "float32")],
)
def test_kernels_that_cannot_serve_are_refused_with_the_ones_that_are_here(quantized, kernel, reason):
    with pytest.raises(RecipeError, match=rf"decoder\.kernel: '{kernel}' .*{reason}.* auto, .*torch_fused.*torch"):
        gptq.load_gptq_decoder(quantized.folder, kernel=kernel)


def test_kernels_can_be_named(quantized, loaded):
    assert {"torch", "torch_fused"} <= set(gptq.available_kernels("cpu"))
    batch = make_batches(1)[0]
    fused = gptq.load_gptq_decoder(quantized.folder, kernel="torch_fused")
    assert gptq.kernel_name(fused) == "torch_fused"
    torch.testing.assert_close(logits(fused, batch), logits(loaded, batch), atol=0.1, rtol=0)
    assert gptq.kernel_name(gptq.load_gptq_decoder(quantized.folder, kernel="gptq_torch")) == "torch"


def test_sizes_that_do_not_fit_are_refused_before_any_work(tmp_path):
    with pytest.raises(UsageError, match=r"layers\.0\.self_attn\.k_proj is 160 -> 80, not multiples of 32"):
        quantize_to_folder(make_model(head_dim=40), None, [], tmp_path / "decoder")
    with pytest.raises(UsageError, match=r"q_proj is 160 -> 128, inputs not a multiple of the group size 64"):
        quantize_to_folder(make_model(), None, [], tmp_path / "decoder", group_size=64)
    with pytest.raises(UsageError, match="5 bits"):
        quantize_to_folder(make_model(), None, [], tmp_path / "decoder", bits=5)
    assert not list(tmp_path.iterdir())


def test_adapters_and_quantized_models_are_refused(loaded, tmp_path):
    tuned = get_peft_model(make_model(), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with pytest.raises(UsageError, match="merge"):
        quantize_to_folder(tuned, None, make_batches(1), tmp_path / "decoder")
    with pytest.raises(UsageError, match="quantized already"):
        quantize_to_folder(loaded, None, make_batches(1), tmp_path / "decoder")


def test_bad_calibration_data_is_refused(model, tmp_path):
    good = make_batches(1)[0]
    empty = {**good, "attention_mask": torch.zeros_like(good["attention_mask"])}
    for batches in ([], [empty]):
        with pytest.raises(DataError, match="calibration data"):
            quantize_to_folder(model, None, batches, tmp_path / "decoder")
    broken = good["inputs_embeds"].clone()
    broken[2, -1, 5] = float("nan")
    with pytest.raises(DataError, match="batch 1.*not finite"):
        quantize_to_folder(model, None, [good, {**good, "inputs_embeds": broken}], tmp_path / "decoder")
    with pytest.raises(DataError, match="do not match"):
        quantize_to_folder(model, None, [{**good, "attention_mask": torch.ones(6, 39)}], tmp_path / "decoder")


def test_a_folder_that_cannot_be_written_leaves_the_model_whole(quantized, tmp_path):
    with pytest.raises(UsageError, match="there already"):
        quantize_to_folder(make_model(), None, [], quantized.folder)
    (tmp_path / "file").write_text("")
    model = make_model()
    with pytest.raises(UsageError, match="cannot write"):
        quantize_to_folder(model, None, make_batches(1), tmp_path / "file" / "decoder")
    assert gptq.count_quantized(model)["quantized"] == 0


CHILD = """
import sys, torch
import nota_cli.quantization.gptq as gptq
assert not {"gptqmodel", "transformers", "peft"} & set(sys.modules), "heavy imports at import time"
gptq.silence_gptqmodel()
import gptqmodel  # as peft does
model = gptq.load_gptq_decoder(sys.argv[1])
embeds = torch.randn(1, 5, 160, requires_grad=True)
with torch.no_grad():
    model(inputs_embeds=embeds)
model.train()
model(inputs_embeds=embeds).logits.sum().backward()
assert embeds.grad.abs().sum() > 0
assert not torch._dynamo.utils.counters["frames"], "torch.compile ran"
print(gptq.kernel_name(model))
"""


def test_it_runs_without_a_compiler_and_with_a_clean_stdout(quantized, tmp_path):
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
    nowhere = str(tmp_path / "nowhere")
    env = dict.fromkeys(("PATH", "CC", "CXX", "HOME"), nowhere) | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    env["TORCH_EXTENSIONS_DIR"] = env["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path / "built")
    child = subprocess.run(
        [sys.executable, "-c", CHILD, quantized.folder],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout == "torch\n"
    assert not list((tmp_path / "built").glob("**/*.so"))


def test_an_output_head_of_its_own_is_kept_and_missed(tmp_path):
    model = make_model(tie_word_embeddings=False)
    quantize_to_folder(model, None, make_batches(1), tmp_path / "decoder")
    tensors = load_file(tmp_path / "decoder" / "model.safetensors")
    assert torch.equal(tensors.pop("lm_head.weight"), model.lm_head.weight)
    save_file(tensors, tmp_path / "decoder" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing: lm_head\.weight"):
        gptq.load_gptq_decoder(tmp_path / "decoder")


@pytest.mark.parametrize("choice", [{"bits": 8}, {"group_size": -1}, {"act_order": True}])
def test_other_widths_groups_and_orders(model, tmp_path, choice):
    report = quantize_to_folder(model, None, make_batches(2), tmp_path / "x", **choice)
    assert report.error < report.rounding_error
    loaded = gptq.load_gptq_decoder(tmp_path / "x")
    assert gptq.count_quantized(loaded)["bits"] == choice.get("bits", 4)
    groups = loaded.model.layers[0].self_attn.q_proj.g_idx
    assert bool((groups.diff() < 0).any()) == choice.get("act_order", False)  # columns out of order
    batch = make_batches(1)[0]
    assert (logits(loaded, batch) - logits(model, batch)).norm() < 0.3 * logits(model, batch).norm()
