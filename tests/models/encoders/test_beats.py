"""BEATs against the golden states, its indifference to padding, its training, and its loader's refusals."""

import dataclasses
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.paths import GOLDEN, golden_clips
from helpers.tensors import noise, shake
from nota_cli.data.audio.clip import load_audio
from nota_cli.errors import CheckpointError, DataError
from nota_cli.features.spectrograms import kaldi_fbank
from nota_cli.models.encoders.beats import BeatsConfig, BeatsEncoder, load_beats

TINY = BeatsConfig(
    embed_dim=24,
    encoder_layers=3,
    encoder_embed_dim=32,
    encoder_ffn_embed_dim=48,
    encoder_attention_heads=4,
    conv_pos=8,
    conv_pos_groups=4,
    num_buckets=16,
    max_distance=30,
)


def tiny(**changes):
    torch.manual_seed(0)
    model = BeatsEncoder(dataclasses.replace(TINY, **changes))
    shake(model, 0.1)
    return model.eval()


def save(path, model, cfg=None, **weights):
    """A file of the published kind: each layer repeats the table, a classifier at the end."""
    state = dict(model.state_dict())
    for layer in range(1, model.config.encoder_layers):
        name = "encoder.layers.{}.self_attn.relative_attention_bias.weight"
        state[name.format(layer)] = state[name.format(0)]
    state["predictor.weight"] = torch.zeros(5, model.output_dim)
    cfg = dataclasses.asdict(model.config) | {"finetuned_model": True, "predictor_class": 5} | (cfg or {})
    torch.save({"cfg": cfg, "model": state | weights}, path)
    return path


@pytest.mark.parametrize("system", ["nota", "cv03"])
def test_equals_the_golden_states(system, exact_fft):
    encoder = load_beats(GOLDEN / system / "beats.pt")
    golden = load_file(GOLDEN / system / "golden.safetensors")
    for clip in golden_clips(system)[:4]:
        waveform = torch.from_numpy(load_audio(next((GOLDEN / system / "audio").glob(f"a{clip}.*"))))
        with torch.no_grad():
            states, mask = encoder(kaldi_fbank(waveform)[None])
            with exact_fft():
                exact, _ = encoder(kaldi_fbank(waveform)[None])
        expected = golden[f"audio_encoder{clip}"]
        assert states.shape == expected.shape
        assert mask.all()
        rounding = (states - exact).norm() / exact.norm()
        assert (states - expected).norm() / expected.norm() < max(1e-5, 2 * rounding)
        assert rounding < 1e-3


def test_bfloat16_stays_near():
    encoder = load_beats(GOLDEN / "nota" / "beats.pt")
    golden = load_file(GOLDEN / "nota" / "golden.safetensors")["audio_encoder1"]
    fbank = kaldi_fbank(torch.from_numpy(load_audio(GOLDEN / "nota" / "audio" / "a1.wav")))[None]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        states, _ = encoder(fbank)
    assert (states.float() - golden).norm() / golden.norm() < 0.03


@pytest.mark.parametrize("lengths", [[96, 63, 16], [70, 80, 33]])
@pytest.mark.parametrize("n_mels", [128, 64])
def test_padding_changes_no_row(lengths, n_mels):
    encoder = tiny()
    fbank = noise(3, 96, n_mels)  # what stands behind a row's end must not matter, so it is noise too
    with torch.no_grad():
        states, mask = encoder(fbank, torch.tensor(lengths))
        assert states.shape == (3, 6 * n_mels // 16, 32)
        for row, length in enumerate(lengths):
            alone, _ = encoder(fbank[row : row + 1, :length])
            assert alone.shape[1] == length // 16 * n_mels // 16
            assert mask[row].tolist() == [place < alone.shape[1] for place in range(states.shape[1])]
            torch.testing.assert_close(states[row, : alone.shape[1]], alone[0], atol=1e-5, rtol=1e-5)


def test_frames_that_fill_no_patch_are_dropped():
    encoder = tiny()
    fbank = noise(1, 63, 64)
    with torch.no_grad():
        whole = encoder(fbank[:, :48])
        torch.testing.assert_close(encoder(fbank), whole, atol=0, rtol=0)
        torch.testing.assert_close(encoder(fbank, torch.tensor([63])), whole, atol=0, rtol=0)


def test_states_run_over_mel_patches_first():
    encoder = tiny(encoder_layers=1, conv_pos=1)
    encoder.encoder.layers[0].self_attn.out_proj.weight.data[:] = 0.0  # so nothing mixes places
    fbank = noise(1, 32, 48)
    changed = fbank.clone()
    changed[:, 16:, 32:] += 1.0  # second step, third mel patch
    with torch.no_grad():
        difference = (encoder(fbank)[0] - encoder(changed)[0]).abs().sum(-1)[0]
    assert difference.nonzero().flatten().tolist() == [5]


def test_the_table_is_what_tells_positions():
    encoder = tiny(conv_pos=1)
    fbank = noise(1, 16, 64).repeat(1, 20, 1)  # every step but the first alike: only the position bias tells them apart
    fbank[:, :16] = 1.0
    with torch.no_grad():
        states = encoder(fbank)[0][0, ::4]
        assert not torch.allclose(states[3], states[5], atol=1e-4)
        encoder.encoder.layers[0].self_attn.relative_attention_bias.weight.fill_(0.3)
        states = encoder(fbank)[0][0, ::4]
    torch.testing.assert_close(states[3], states[5], atol=1e-5, rtol=1e-5)


def test_refuses_too_little():
    encoder = tiny()
    with pytest.raises(DataError, match="at least 16 frames"):
        encoder(noise(1, 15, 64))
    with pytest.raises(DataError, match="at least 16 frames"):
        encoder(noise(2, 40, 64), torch.tensor([40, 9]))
    with pytest.raises(DataError, match="multiple of 16 mel bins"):
        encoder(noise(1, 40, 60))


@pytest.mark.parametrize("bfloat16", [False, True])
def test_everything_trains_even_after_inference(bfloat16):
    torch.manual_seed(0)
    encoder = BeatsEncoder(dataclasses.replace(TINY, max_distance=31))  # a length and table no other test has cached
    fbank, lengths = noise(2, 80, 64), torch.tensor([80, 40])
    with torch.inference_mode():
        encoder(fbank, lengths)
    encoder.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        states, mask = encoder(fbank, lengths)
        (states * noise(*states.shape))[mask].float().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if not name.endswith("k_proj.bias"):  # softmax is blind to it
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    "field", ["dropout", "attention_dropout", "activation_dropout", "dropout_input", "encoder_layerdrop"]
)
def test_dropout_fields_act_in_training_only(field):
    encoder = tiny(**{field: 0.5})
    fbank = noise(1, 64, 64)

    def distinct():
        return len({encoder(fbank)[0].sum().item() for _ in range(8)})

    with torch.no_grad():
        assert distinct() == 1
        encoder.train()
        assert distinct() > 1


def test_scores_beyond_half_precision_are_survived():
    encoder = tiny()
    for layer in encoder.encoder.layers:
        layer.self_attn.q_proj.weight.data *= 300
        layer.self_attn.k_proj.weight.data *= 300
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        states, _ = encoder(noise(2, 64, 64), torch.tensor([64, 32]))
    assert torch.isfinite(states).all()


def test_a_published_file_loads(tmp_path):
    model = tiny()
    loaded = load_beats(save(tmp_path / "beats.pt", model))
    assert not loaded.training
    assert loaded.config == model.config
    with torch.no_grad():
        torch.testing.assert_close(loaded(noise(1, 64, 64)), model(noise(1, 64, 64)), atol=0, rtol=0)


def test_equal_widths_need_no_projection(tmp_path):
    model = tiny(embed_dim=32)
    assert not any(name.startswith("post_extract_proj") for name in model.state_dict())
    assert load_beats(save(tmp_path / "beats.pt", model)).post_extract_proj is None


def test_names_missing_unexpected_and_ill_shaped_weights(tmp_path):
    path = save(tmp_path / "beats.pt", tiny(), extra=torch.zeros(1), **{"layer_norm.bias": torch.zeros(7)})
    content = torch.load(path, weights_only=True)
    del content["model"]["encoder.layers.2.fc1.bias"]
    torch.save(content, path)
    with pytest.raises(CheckpointError) as caught:
        load_beats(path)
    message = str(caught.value)
    assert "missing: encoder.layers.2.fc1.bias" in message
    assert "unexpected: extra" in message
    assert "layer_norm.bias is [7], its cfg wants [24]" in message


def test_refuses_layers_with_tables_of_their_own(tmp_path):
    name = "encoder.layers.1.self_attn.relative_attention_bias.weight"
    path = save(tmp_path / "beats.pt", tiny(), **{name: torch.zeros(16, 4)})
    with pytest.raises(CheckpointError, match="differs from layer 0's"):
        load_beats(path)


@pytest.mark.parametrize(
    ("cfg", "reason"),
    [
        ({"surprise": 1}, "surprise"),
        ({"activation_fn": "glu"}, "activation_fn"),
        ({"layer_norm_first": True}, "layer_norm_first"),
        ({"gru_rel_pos": False}, "gru_rel_pos"),
        ({"encoder_attention_heads": 5}, "encoder_attention_heads"),
        ({"encoder_layers": 0}, "encoder_layers"),
    ],
)
def test_refuses_configurations_it_would_compute_wrongly(tmp_path, cfg, reason):
    with pytest.raises(CheckpointError, match=reason):
        load_beats(save(tmp_path / "beats.pt", tiny(), cfg=cfg))


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_that_would_run_code_is_refused_and_runs_none(tmp_path):
    trace = tmp_path / "it-ran"
    content = {"cfg": {}, "model": Malicious(trace)}
    torch.save(content, tmp_path / "zip.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(content, protocol=2))
    for name in ("zip.pt", "plain.pt"):
        with pytest.raises(CheckpointError, match="not a readable file of weights"):
            load_beats(tmp_path / name)
    assert not trace.exists()


def test_refuses_other_files(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_beats(tmp_path / "gone.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CheckpointError, match="not a readable file of weights"):
        load_beats(tmp_path / "text.pt")
    whole = save(tmp_path / "whole.pt", tiny()).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="not a readable file of weights"):
        load_beats(tmp_path / "cut.pt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not a BEATs checkpoint"):
        load_beats(tmp_path / "other.pt")
