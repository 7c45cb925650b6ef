"""EAT against a plain reference, its indifference to padding, its training, and its loaders' refusals."""

import dataclasses
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from helpers.tensors import noise, shake
from nota_cli.errors import CheckpointError, DataError
from nota_cli.features.batch import extract
from nota_cli.features.spectrograms import eat_fbank
from nota_cli.models.encoders.eat import EatConfig, EatEncoder, load_eat

TINY = EatConfig(embed_dim=32, depth=3, num_heads=4, mel_bins=32, mlp_ratio=2.0)
HEADS = {"fc_norm.weight": torch.ones(32), "fc_norm.bias": torch.zeros(32), "head.weight": torch.zeros(5, 32)}


def tiny(**changes):
    torch.manual_seed(0)
    model = EatEncoder(dataclasses.replace(TINY, **changes))
    shake(model, 0.1)
    return model.eval()


def wave(place, width):
    """One axis' position: sines of falling rates, then their cosines."""
    angles = [place / 10_000 ** (k / (width // 2)) for k in range(width // 2)]
    return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]


def table(steps, columns, width):
    """The published table: the mel patch in the first half, the step in the second, steps outer."""
    rows = [wave(column, width // 2) + wave(step, width // 2) for step in range(steps) for column in range(columns)]
    return torch.tensor(rows, dtype=torch.float64)


def reference(model, fbank):
    """The published computation for one clip `[T, mel_bins]`, in float64, patch by patch and head by head."""
    w = {name: value.double() for name, value in model.state_dict().items()}
    c, size = model.config, model.config.patch_size
    steps, columns = len(fbank) // size, c.mel_bins // size
    tokens = []
    for step in range(steps):
        for column in range(columns):
            patch = fbank[step * size : (step + 1) * size, column * size : (column + 1) * size].double()
            tokens.append((w["local_encoder.proj.weight"][:, 0] * patch).sum((1, 2)) + w["local_encoder.proj.bias"])
    x = torch.stack(tokens) + table(steps, columns, c.embed_dim)

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return centred / scale * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = norm(torch.cat([w["extra_tokens"][0], x]), "pre_norm")
    width = c.embed_dim // c.num_heads
    for block in range(c.depth):
        qkv = linear(x, f"blocks.{block}.attn.qkv")
        heads = []
        for head in range(c.num_heads):
            places = [
                slice(part * c.embed_dim + head * width, part * c.embed_dim + (head + 1) * width) for part in range(3)
            ]
            query, key, value = (qkv[:, place] for place in places)
            heads.append((query @ key.T / width**0.5).softmax(-1) @ value)
        x = norm(x + linear(torch.cat(heads, -1), f"blocks.{block}.attn.proj"), f"blocks.{block}.norm1")
        hidden = linear(x, f"blocks.{block}.mlp.fc1")
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
        x = norm(x + linear(hidden, f"blocks.{block}.mlp.fc2"), f"blocks.{block}.norm2")
    return x[1:].float()


@pytest.mark.parametrize("frames", [16, 63, 1040])  # the last is longer than the clips of the published training
def test_equals_the_reference(frames):
    encoder, fbank = tiny(), noise(frames, 32)
    with torch.no_grad():
        states, mask = encoder(fbank[None])
    assert states.shape == (1, frames // 16 * 2, 32)
    assert mask.all()
    torch.testing.assert_close(states[0], reference(encoder, fbank), atol=2e-5, rtol=1e-5)


def test_faint_states_are_normed_with_the_published_epsilon():
    encoder, fbank = tiny(), noise(64, 32)
    for name, parameter in encoder.named_parameters():
        if any(part in name for part in ("norm", "proj", "fc2")) and "norm2" not in name:
            parameter.data *= 1e-3
    with torch.no_grad():
        states, _ = encoder(fbank[None])
    torch.testing.assert_close(states[0], reference(encoder, fbank), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("lengths", [[96, 63, 16], [70, 80, 33]])
def test_padding_changes_no_row(lengths):
    encoder = tiny()
    fbank = noise(3, 96, 32)  # what stands behind a row's end must not matter, so it is noise too
    with torch.no_grad():
        states, mask = encoder(fbank, torch.tensor(lengths))
        assert states.shape == (3, 12, 32)
        for row, length in enumerate(lengths):
            alone, _ = encoder(fbank[row : row + 1, :length])
            assert mask[row].tolist() == [place < alone.shape[1] for place in range(12)]
            torch.testing.assert_close(states[row, : alone.shape[1]], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_stay_near(dtype):
    encoder, fbank, lengths = tiny(), noise(2, 96, 32), torch.tensor([96, 40])
    with torch.no_grad():
        expected, mask = encoder(fbank, lengths)
        with torch.autocast("cpu", torch.bfloat16):
            mixed, _ = encoder(fbank, lengths)
        half, _ = encoder.to(dtype)(fbank, lengths)
    assert half.dtype == dtype
    for states in (mixed, half):
        error = states.float()[mask] - expected[mask]
        assert error.norm() / expected[mask].norm() < 0.03


def test_refuses_what_it_cannot_encode():
    encoder = tiny()
    with pytest.raises(DataError, match="at least 16 frames"):
        encoder(noise(1, 15, 32))
    with pytest.raises(DataError, match="at least 16 frames"):
        encoder(noise(2, 40, 32), torch.tensor([40, 9]))
    with pytest.raises(DataError, match="wants 32 mel bins, got 128"):
        encoder(noise(1, 40, 128))


@pytest.mark.parametrize(
    ("config", "parameters"),
    [  # patches, class token and norms, then blocks; the published 88 M and 309 M count the pre-training decoder too
        (EatConfig(), 197_376 + 768 + 1_536 + 12 * 7_087_872),
        (EatConfig(embed_dim=1024, depth=24, num_heads=16), 263_168 + 1_024 + 2_048 + 24 * 12_596_224),
    ],
)
def test_the_published_sizes(config, parameters):
    with torch.device("meta"):
        encoder = EatEncoder(config)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters
    assert encoder.output_dim == config.embed_dim


def test_trains_from_scratch_even_after_inference():
    torch.manual_seed(0)
    encoder = EatEncoder(dataclasses.replace(TINY, end_drop_path_rate=0.01))
    fbank, lengths = noise(2, 112, 32), torch.tensor([112, 40])  # a length that no other test has cached
    with torch.inference_mode():
        encoder(fbank, lengths)
    encoder.train()
    states, mask = encoder(fbank, lengths)
    assert 0.5 < states[mask].std() < 2.0
    (states * noise(*states.shape))[mask].sum().backward()
    for name, parameter in encoder.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    "rates",
    [
        {"drop_rate": 0.5},
        {"attn_drop_rate": 0.5},
        {"activation_dropout": 0.5},
        {"post_mlp_drop": 0.5},
        {"start_drop_path_rate": 0.5, "end_drop_path_rate": 0.5},
    ],
)
def test_dropout_fields_act_in_training_only(rates):
    encoder, fbank = tiny(**rates), noise(1, 64, 32)

    def distinct():
        return len({(encoder(fbank)[0] * noise(8, 32)).sum().item() for _ in range(8)})

    with torch.no_grad():
        assert distinct() == 1
        encoder.train()
        assert distinct() > 1


def test_rows_drop_their_paths_each_for_itself():
    encoder = tiny(start_drop_path_rate=0.5, end_drop_path_rate=0.5).train()
    with torch.no_grad():
        states, _ = encoder(noise(1, 16, 32).expand(32, -1, -1))
    assert len({round(row.sum().item(), 4) for row in states * noise(2, 32)}) > 4


def test_clips_of_one_to_thirty_seconds_through_the_front_end():
    encoder = tiny(mel_bins=128)
    clips = [0.1 * noise(int(16_000 * seconds)).numpy() for seconds in (1.0, 10.24, 30.0)]
    features = extract(clips, 80, front_end=encoder.front_end, pad="clip")
    with torch.no_grad():
        states, mask = encoder(features.fbank, features.fbank_lengths)
        assert mask.sum(1).tolist() == [7 * 8, 64 * 8, 188 * 8]  # ceil of 98, 1,022 and 2,998 frames over 16
        alone, _ = encoder(eat_fbank(torch.from_numpy(clips[0]))[None])
    torch.testing.assert_close(states[0, : 7 * 8], alone[0], atol=1e-5, rtol=1e-5)


# The published layouts.


def folder(path, model, config=None, **weights):
    """A Hugging Face folder of the published kind; its table is longer than any clip."""
    state = {f"model.{name}": value.clone() for name, value in model.state_dict().items()}
    state["model.fixed_positional_encoder.positions"] = (
        table(40, model.config.mel_bins // 16, 32).float()[None].contiguous()
    )
    state |= {f"model.{name}": value for name, value in weights.items()}
    other = {"model_type": "eat", "architectures": ["EATModel"], "auto_map": {}, "torch_dtype": "float32"}
    other |= {"max_length": 768, "img_size": [1024, 128], "num_classes": 527, "model_variant": "pretrain"}
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(dataclasses.asdict(model.config) | other | (config or {})))
    save_file(state, path / "model.safetensors")
    return path


def fairseq_name(name):
    if name.startswith("blocks."):
        return name
    return "modality_encoders.IMAGE." + name.replace("pre_norm.", "context_encoder.norm.")


def fairseq(path, model, image=None, **weights):
    """A pre-training file of the published kind: half precision, a decoder and a teacher beside the encoder."""
    state = {fairseq_name(name): value.half() for name, value in model.state_dict().items()}
    state["modality_encoders.IMAGE.fixed_positional_encoder.positions"] = table(8, 8, 32).half()[None]
    state["modality_encoders.IMAGE.decoder.blocks.0.0.weight"] = torch.zeros(3)
    state["_ema"] = {"blocks.0.norm1.weight": torch.zeros(32)}
    c = model.config
    names = ("embed_dim", "depth", "num_heads", "mlp_ratio", "norm_eps", "norm_affine", "layer_norm_first")
    cfg = {name: getattr(c, name) for name in names}
    cfg |= {"_name": "data2vec_multi", "encoder_dropout": 0.0, "attention_dropout": 0.1, "clone_batch": 16}
    encoder = {"type": "IMAGE", "patch_size": 16, "in_chans": 1, "embed_dim": 32, "fixed_positions": True}
    encoder |= {"num_extra_tokens": 1, "prenet_depth": 0, "use_alibi_encoder": False, "target_length": 1024}
    cfg["modalities"] = {"_name": None, "image": encoder | (image or {})}
    torch.save({"args": None, "cfg": {"model": cfg, "task": {}}, "model": state | weights}, path)
    return path


def fine_tuned(path, source):
    """The same model inside a classifier, its configuration inside the classifier's."""
    content = torch.load(source, weights_only=True)
    state = {f"model.{name}": value for name, value in content["model"].items() if "decoder" not in name}
    del state["model._ema"]
    cfg = {"model": {"_name": "mae_image_classification", "pretrained_model_args": content["cfg"], "num_classes": 5}}
    torch.save({"cfg": cfg, "model": state | HEADS}, path)
    return path


def base(**changes):
    """A tiny model whose mel bins are the published 128, which a fairseq `cfg` does not name."""
    return tiny(mel_bins=128, **changes)


@pytest.mark.parametrize("heads", [{}, HEADS])
def test_a_folder_loads(tmp_path, heads):
    model = tiny()
    loaded = load_eat(folder(tmp_path / "eat", model, **heads))
    assert not loaded.training
    assert loaded.config == model.config
    with torch.no_grad():
        torch.testing.assert_close(loaded(noise(1, 64, 32)), model(noise(1, 64, 32)), atol=0, rtol=0)


def test_fairseq_files_load(tmp_path):
    model = base()
    pretrained = fairseq(tmp_path / "pt.pt", model)
    for path in (pretrained, fine_tuned(tmp_path / "ft.pt", pretrained)):
        loaded = load_eat(path)
        assert loaded.config == dataclasses.replace(model.config, attn_drop_rate=0.1)
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
        for name, value in loaded.state_dict().items():
            assert torch.equal(value, model.state_dict()[name].half().float()), name


def test_a_folder_without_a_table_loads(tmp_path):
    path = folder(tmp_path / "eat", tiny())
    save_file({f"model.{name}": value for name, value in tiny().state_dict().items()}, path / "model.safetensors")
    assert load_eat(path).config == TINY


@pytest.mark.parametrize("layout", [folder, fairseq])
def test_names_missing_unexpected_and_ill_shaped_weights(tmp_path, layout):
    model = base()
    del model.blocks[2].mlp.fc1.bias
    model.pre_norm.bias = torch.nn.Parameter(torch.zeros(7))
    model.register_buffer("extra", torch.zeros(1))
    with pytest.raises(CheckpointError) as caught:
        load_eat(layout(tmp_path / "eat", model))
    message = str(caught.value)
    assert "missing: blocks.2.mlp.fc1.bias" in message
    assert "unexpected: extra" in message
    assert "pre_norm.bias is [7], its config wants [32]" in message


@pytest.mark.parametrize(
    ("positions", "reason"),
    [
        (torch.zeros(1, 80, 32), "differs from the fixed sines"),
        (torch.zeros(1, 79, 32), r"not \[1, a multiple of 2, 32\]"),
        (torch.zeros(80, 32), r"not \[1, a multiple of 2, 32\]"),
    ],
)
def test_refuses_another_position_table(tmp_path, positions, reason):
    path = folder(tmp_path / "eat", tiny(), **{"fixed_positional_encoder.positions": positions})
    with pytest.raises(CheckpointError, match=reason):
        load_eat(path)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"surprise": 1}, "surprise"),
        ({"layer_norm_first": True}, "layer_norm_first"),
        ({"fixed_positions": False}, "fixed_positions"),
        ({"stride": 10}, "stride"),
        ({"in_chans": 3}, "in_chans"),
        ({"num_heads": 5}, "num_heads"),
        ({"embed_dim": 30, "num_heads": 2}, "embed_dim"),
        ({"mel_bins": 100}, "mel_bins"),
        ({"depth": 0}, "depth"),
    ],
)
def test_refuses_configurations_it_would_compute_wrongly(tmp_path, config, reason):
    with pytest.raises(CheckpointError, match=reason):
        load_eat(folder(tmp_path / "eat", tiny(), config))


@pytest.mark.parametrize("image", [{"prenet_depth": 4}, {"use_alibi_encoder": True}, {"num_extra_tokens": 10}])
def test_refuses_relatives_of_the_published_models(tmp_path, image):
    with pytest.raises(CheckpointError, match=next(iter(image))):
        load_eat(fairseq(tmp_path / "eat.pt", base(), image))


def test_refuses_other_and_damaged_files(tmp_path):
    with pytest.raises(CheckpointError, match="gone.pt: no such file"):
        load_eat(tmp_path / "gone.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CheckpointError, match="not a readable file of weights"):
        load_eat(tmp_path / "text.pt")
    whole = fairseq(tmp_path / "whole.pt", base()).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="not a readable file of weights"):
        load_eat(tmp_path / "cut.pt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not an EAT checkpoint"):
        load_eat(tmp_path / "other.pt")
    torch.save({"cfg": {"embed_dim": 512}, "model": {}}, tmp_path / "beats.pt")
    with pytest.raises(CheckpointError, match="`cfg` is not an EAT model's"):
        load_eat(tmp_path / "beats.pt")
    with pytest.raises(CheckpointError, match="not a tensor: blocks.0.norm1.bias"):
        load_eat(fairseq(tmp_path / "odd.pt", base(), **{"blocks.0.norm1.bias": [0.0]}))


def test_refuses_damaged_folders(tmp_path):
    path = folder(tmp_path / "eat", tiny())
    weights = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_eat(path)
    (path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: no such file"):
        load_eat(path)
    (path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not readable JSON"):
        load_eat(path)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_of_more_than_weights_runs_nothing_and_names_the_way_out(tmp_path):
    trace = tmp_path / "it-ran"
    content = {"cfg": {}, "model": Malicious(trace)}
    torch.save(content, tmp_path / "zip.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(content, protocol=2))
    for name in ("zip.pt", "plain.pt"):
        with pytest.raises(CheckpointError, match="take the Hugging Face folder"):
            load_eat(tmp_path / name)
    assert not trace.exists()
    torch.save({"cfg": {}, "model": {}, "extra_state": np.float64(1.0)}, tmp_path / "metrics.pt")
    with pytest.raises(CheckpointError, match="it holds .*multiarray.scalar"):
        load_eat(tmp_path / "metrics.pt")
