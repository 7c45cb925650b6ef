"""Files of CED models: both published layouts, what is read off them, and what is refused."""

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from helpers.ced import tiny
from helpers.tensors import noise
from nota_cli.errors import CheckpointError
from nota_cli.models.encoders.ced import CedConfig, CedEncoder, load_ced

HUGGING_FACE = {
    "name": "ced-none",
    "architectures": ["CedForAudioClassification"],
    "auto_map": {"AutoConfig": "configuration_ced.CedConfig"},
    "model_type": "ced",
    "transformers_version": "4.35.2",
    "torch_dtype": "float32",
    "id2label": {"0": "Speech"},
    "label2id": {"Speech": 0},
    "outputdim": 7,
    "eval_avg": "mean",
    "pad_last": True,
    "center": True,
    "f_min": 0,
    "f_max": 8000,
    "hop_size": 160,
    "n_fft": 512,
    "win_size": 512,
}


def file(path, model, **weights):
    """An original checkpoint: the bare weights, with the classifier's and the spectrogram's."""
    left_out = {
        "outputlayer.0.weight": torch.zeros(32),
        "outputlayer.1.weight": torch.zeros(7, 32),
        "front_end.0.spectrogram.window": torch.zeros(512),
        "front_end.fbank_mean": torch.tensor(15.41663),
    }
    torch.save({**model.state_dict(), **left_out, **weights}, path)
    return path


def folder(path, model, config=None, weights_file="model.safetensors", **weights):
    """What the Hugging Face variant of the publisher writes."""
    state = {"encoder." + name.replace("init_bn.1.", "init_bn."): value for name, value in model.state_dict().items()}
    state |= {"outputlayer.1.bias": torch.zeros(7)} | weights
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(dataclasses.asdict(model.config) | HUGGING_FACE | (config or {})))
    if weights_file.endswith("safetensors"):
        save_file({name: value.contiguous() for name, value in state.items()}, path / weights_file)
    else:
        torch.save(state, path / weights_file)
    return path


def encode(model, fbank):
    with torch.no_grad():
        return model(fbank)


def test_an_original_file_loads(tmp_path):
    model = tiny()
    plain = file(tmp_path / "ced.pt", model)
    torch.save({"model": torch.load(plain)}, tmp_path / "wrapped.pt")
    for path in (plain, tmp_path / "wrapped.pt"):
        loaded = load_ced(path, 4)
        assert not loaded.training
        assert loaded.config == dataclasses.replace(model.config, target_length=80)  # a file tells whole patches
        torch.testing.assert_close(loaded.init_bn[0].num_batches_tracked, torch.tensor(123))  # an integer still
        torch.testing.assert_close(encode(loaded, noise(1, 84, 64)), encode(model, noise(1, 84, 64)), atol=0, rtol=0)


@pytest.mark.parametrize("weights_file", ["model.safetensors", "pytorch_model.bin"])
def test_a_hugging_face_folder_loads(tmp_path, weights_file):
    model = tiny()
    path = folder(tmp_path / "ced", model, weights_file=weights_file)
    for heads in (None, 4):
        loaded = load_ced(path, heads)
        assert loaded.config == model.config
        torch.testing.assert_close(encode(loaded, noise(1, 184, 64)), encode(model, noise(1, 184, 64)), atol=0, rtol=0)
    with pytest.raises(CheckpointError, match="says 4 heads, but 8"):
        load_ced(path, 8)


@pytest.mark.parametrize(("width", "heads"), [(64, 1), (128, 2)])
def test_heads_are_one_for_64_of_the_width(tmp_path, width, heads):
    model = CedEncoder(CedConfig(embed_dim=width, depth=1, num_heads=1))
    loaded = load_ced(file(tmp_path / "ced.pt", model))
    assert loaded.config == CedConfig(embed_dim=width, depth=1, num_heads=heads)  # the published length too
    with pytest.raises(CheckpointError, match="Give `heads`"):
        load_ced(file(tmp_path / "odd.pt", tiny()))
    with pytest.raises(CheckpointError, match="multiple of num_heads"):
        load_ced(file(tmp_path / "odd.pt", tiny()), 5)


def test_shapes_of_other_sizes_are_read_off(tmp_path):
    model = tiny(mlp_ratio=2.0, n_mels=32, depth=2, qkv_bias=False)
    loaded = load_ced(file(tmp_path / "ced.pt", model), 4)
    torch.testing.assert_close(encode(loaded, noise(1, 40, 32)), encode(model, noise(1, 40, 32)), atol=0, rtol=0)


def test_a_short_table_is_stretched_for_beats_scaling_alone(tmp_path):
    """As NLP-07's code did with published files: 63 places to 187, of which a short clip takes the first."""
    model = CedEncoder(CedConfig(embed_dim=64, depth=1, num_heads=1))
    path = file(tmp_path / "ced.pt", model)
    table = model.time_pos_embed.detach()[0, :, 0].double().numpy()
    torch.testing.assert_close(load_ced(path).time_pos_embed, model.time_pos_embed)
    stretched = load_ced(path, scaling="beats").time_pos_embed[0, :, 0].detach()
    assert stretched.shape == (64, 187)
    places = (np.arange(187) + 0.5) * 63 / 187 - 0.5  # centres of the new places among those of the old
    expected = np.stack([np.interp(places, np.arange(63), row) for row in table])
    np.testing.assert_allclose(stretched, expected, atol=1e-6)


def test_a_table_for_30_s_or_more_stays(tmp_path):
    for length in (187 * 16, 200 * 16):
        model = CedEncoder(CedConfig(embed_dim=64, depth=1, num_heads=1, target_length=length))
        loaded = load_ced(file(tmp_path / "ced.pt", model), scaling="beats")
        torch.testing.assert_close(loaded.time_pos_embed, model.time_pos_embed)


def test_half_precision_files_become_float32(tmp_path):
    path = file(tmp_path / "ced.pt", tiny().half())
    assert {parameter.dtype for parameter in load_ced(path, 4).parameters()} == {torch.float32}


def test_names_missing_unexpected_and_ill_shaped_weights(tmp_path):
    path = file(tmp_path / "ced.pt", tiny(), cls_token=torch.zeros(1), **{"norm.bias": torch.zeros(7)})
    content = torch.load(path, weights_only=True)
    del content["blocks.2.mlp.fc1.bias"]
    torch.save(content, path)
    with pytest.raises(CheckpointError) as caught:
        load_ced(path, 4)
    message = str(caught.value)
    assert "missing: blocks.2.mlp.fc1.bias" in message
    assert "unexpected: cls_token" in message
    assert "norm.bias is [7], its width and depth wants [32]" in message


def test_a_folder_whose_config_is_another_models(tmp_path):
    path = folder(tmp_path / "ced", tiny(), {"depth": 2, "target_length": 1012}, **{"encoder.extra": torch.zeros(1)})
    with pytest.raises(CheckpointError) as caught:
        load_ced(path)
    message = str(caught.value)
    assert "unexpected: blocks.2.attn.proj.bias" in message
    assert "unexpected: extra" in message
    assert "time_pos_embed is [1, 32, 1, 5], its config wants [1, 32, 1, 63]" in message


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"surprise": 1}, "surprise"),
        ({"pooling": "token"}, "pooling"),
        ({"patch_stride": 10}, "patch_stride"),
        ({"num_heads": 5}, "num_heads"),
        ({"num_heads": 0}, "num_heads"),
        ({"n_mels": 100}, "n_mels"),
        ({"target_length": 15}, "target_length"),
        ({"depth": 0}, "depth"),
        ({"hop_size": 320}, "hop_size is 320, not 160"),
        ({"f_max": 7000}, "f_max"),
        ({"center": False}, "center"),
    ],
)
def test_refuses_configurations_it_would_compute_wrongly(tmp_path, config, reason):
    with pytest.raises(CheckpointError, match=reason):
        load_ced(folder(tmp_path / "ced", tiny(), config))


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_that_would_run_code_is_refused_and_runs_none(tmp_path):
    trace = tmp_path / "it-ran"
    content = {"time_pos_embed": Malicious(trace)}
    torch.save(content, tmp_path / "zip.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(content, protocol=2))
    hugging_face = folder(tmp_path / "ced", tiny())
    (hugging_face / "model.safetensors").unlink()
    torch.save(content, hugging_face / "pytorch_model.bin")
    for path in (tmp_path / "zip.pt", tmp_path / "plain.pt", hugging_face):
        with pytest.raises(CheckpointError, match="not a readable file of weights"):
            load_ced(path)
    assert not trace.exists()


def test_refuses_other_and_damaged_files(tmp_path):
    for name in ("gone.pt", "gone.safetensors"):
        with pytest.raises(CheckpointError, match=f"{name}: no such file"):
            load_ced(tmp_path / name)
    (tmp_path / "text.pt").write_text("hello")
    whole = file(tmp_path / "whole.pt", tiny()).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    for name in ("text.pt", "cut.pt"):
        with pytest.raises(CheckpointError, match="not a readable file of weights"):
            load_ced(tmp_path / name)
    for content in ({"weight": torch.zeros(1)}, [torch.zeros(1)], {"cfg": {}, "model": {}}, {"time_pos_embed": 3}):
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(CheckpointError, match="not a CED checkpoint"):
            load_ced(tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not a CED checkpoint"):
        load_ced(file(tmp_path / "flat.pt", tiny(), time_pos_embed=torch.zeros(5, 32)), 4)


def test_refuses_damaged_folders(tmp_path):
    path = folder(tmp_path / "ced", tiny())
    weights = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_ced(path)
    (path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: no such file"):
        load_ced(path)
    for text, reason in (("{", "not readable JSON"), ("[1]", "not a JSON object")):
        (path / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=reason):
            load_ced(path)
    (path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json: no such file"):
        load_ced(path)
