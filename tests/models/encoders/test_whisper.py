"""Our Whisper encoder against transformers', its indifference to padding, and its loader's refusals."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import WhisperConfig, WhisperForConditionalGeneration, WhisperModel

from helpers.paths import GOLDEN
from helpers.tensors import noise
from nota_cli.errors import CheckpointError, DataError
from nota_cli.models.encoders.whisper import WhisperEncoder, load_whisper_encoder


def config(**changes):
    sizes = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64}
    sizes |= {"decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 64, "vocab_size": 50}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    return WhisperConfig(**(sizes | tokens | {"num_mel_bins": 16, "max_source_positions": 100} | changes))


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    model = WhisperEncoder(config()).eval()
    for parameter in model.parameters():  # biases start at zero and would hide what padding does
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("whisper")
    WhisperModel(config()).save_pretrained(path)
    return path


@pytest.mark.parametrize("system", ["nota", "cv03"])
def test_equals_transformers_at_thirty_seconds(system):
    theirs = WhisperModel.from_pretrained(GOLDEN / system / "whisper").encoder.eval()
    ours = load_whisper_encoder(GOLDEN / system / "whisper")
    log_mel = noise(2, 128, 3000)
    with torch.no_grad():
        states, mask = ours(log_mel)
        expected = theirs(log_mel).last_hidden_state
    assert states.shape == (2, 1500, ours.output_dim)
    assert mask.all()
    torch.testing.assert_close(states, expected, atol=1e-6, rtol=1e-5)


def test_any_head_or_none_gives_the_same_encoder(tmp_path):
    torch.manual_seed(2)
    model = WhisperForConditionalGeneration(config()).eval()
    model.save_pretrained(tmp_path)  # keys start with `model.encoder.`
    log_mel = noise(1, 16, 200)
    with torch.no_grad():
        expected = model.model.encoder(log_mel).last_hidden_state
        states, _ = load_whisper_encoder(tmp_path)(log_mel)
    torch.testing.assert_close(states, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("frames", [1, 2, 37, 120, 200])
def test_takes_any_number_of_frames(encoder, frames):
    states, mask = encoder(noise(1, 16, frames))
    assert states.shape == (1, (frames + 1) // 2, encoder.output_dim)
    assert mask.shape == (1, (frames + 1) // 2)
    assert mask.all()


@pytest.mark.parametrize("lengths", [[120, 77, 3, 80], [50, 50, 49, 1]])
def test_padding_changes_no_row(encoder, lengths):
    log_mel = noise(4, 16, 120)  # what stands behind a row's end must not matter, so it is noise too
    with torch.no_grad():
        states, mask = encoder(log_mel, torch.tensor(lengths))
        for row, length in enumerate(lengths):
            alone, _ = encoder(log_mel[row : row + 1, :, :length])
            assert mask[row].tolist() == [place < alone.shape[1] for place in range(60)]
            torch.testing.assert_close(states[row, : alone.shape[1]], alone[0], atol=1e-5, rtol=1e-5)


def test_full_lengths_are_as_none(encoder):
    log_mel = noise(2, 16, 60)
    with torch.no_grad():
        torch.testing.assert_close(encoder(log_mel, torch.tensor([60, 60])), encoder(log_mel), atol=0, rtol=0)


def test_refuses_what_it_has_no_weights_for(encoder):
    with pytest.raises(DataError, match="at most 200 frames, got 201"):
        encoder(noise(1, 16, 201))
    with pytest.raises(DataError, match="16 mel bins, got 80"):
        encoder(noise(1, 80, 100))


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    model = WhisperEncoder(config(dropout=0.3))
    log_mel = noise(1, 16, 40)
    assert not torch.equal(model(log_mel)[0], model(log_mel)[0])
    model.eval()
    assert torch.equal(model(log_mel)[0], model(log_mel)[0])


def test_trains_with_padding_under_bfloat16():
    torch.manual_seed(0)
    model = WhisperEncoder(config()).train()
    with torch.autocast("cpu", torch.bfloat16):
        states, mask = model(noise(2, 16, 40), torch.tensor([40, 15]))
        states[mask].float().square().sum().backward()
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert "embed_positions.weight" not in trainable
    for name, parameter in trainable.items():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_loads_in_the_type_asked_for(folder):
    model = load_whisper_encoder(folder, dtype=torch.float16)
    assert {p.dtype for p in model.parameters()} == {torch.float16}
    assert not model.training
    assert not model.embed_positions.weight.requires_grad
    states, _ = model(noise(1, 16, 40))
    assert states.dtype == torch.float16
    reference, _ = load_whisper_encoder(folder)(noise(1, 16, 40))
    torch.testing.assert_close(states.float(), reference, atol=2e-2, rtol=2e-2)


def test_reads_shards(folder, tmp_path):
    shutil.copy(folder / "config.json", tmp_path)
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    index = {}
    for number, part in enumerate([names[::2], names[1::2]]):
        save_file({name: weights[name] for name in part}, tmp_path / f"part{number}.safetensors")
        index |= dict.fromkeys(part, f"part{number}.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    log_mel = noise(1, 16, 40)
    torch.testing.assert_close(load_whisper_encoder(tmp_path)(log_mel), load_whisper_encoder(folder)(log_mel))
    (tmp_path / "part1.safetensors").unlink()
    with pytest.raises(CheckpointError, match="part1.safetensors: missing"):
        load_whisper_encoder(tmp_path)


def test_names_missing_unexpected_and_ill_shaped_weights(folder, tmp_path):
    shutil.copy(folder / "config.json", tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["encoder.extra"] = torch.zeros(1)
    weights["encoder.conv1.bias"] = torch.zeros(3)
    del weights["encoder.layers.1.fc1.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_whisper_encoder(tmp_path)
    message = str(caught.value)
    assert "missing: layers.1.fc1.weight" in message
    assert "unexpected: extra" in message
    assert "conv1.bias is [3], its config wants [32]" in message


def test_refuses_folders_that_are_no_whisper(folder, tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        load_whisper_encoder(tmp_path / "nowhere")
    shutil.copy(folder / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: missing"):
        load_whisper_encoder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_whisper_encoder(tmp_path)
    save_file({"decoder.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="Is it a Whisper model"):
        load_whisper_encoder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not readable JSON"):
        load_whisper_encoder(tmp_path)
