"""CED against the golden states, its spectrogram, orders and pieces, its indifference to padding, and its training."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from helpers.ced import TINY, tiny
from helpers.paths import GOLDEN, golden_clips
from helpers.tensors import noise
from nota_cli.data.audio.clip import load_audio
from nota_cli.errors import DataError
from nota_cli.features.batch import FRONT_ENDS
from nota_cli.features.constants import BEATS_MEAN, BEATS_STD
from nota_cli.features.spectrograms import ced_spectrogram
from nota_cli.models.encoders.ced import CedConfig, CedEncoder, load_ced

SYSTEM = GOLDEN / "nlp07"


def encode(model, *arguments):
    with torch.no_grad():
        return model(*arguments)


# The golden system


def golden(scaling="beats", token_order="frequency"):
    return load_ced(SYSTEM / "ced.pt", 4, scaling=scaling, token_order=token_order)


def golden_clip(clip):
    return torch.from_numpy(load_audio(next((SYSTEM / "audio").glob(f"a{clip}.*"))))


@pytest.mark.parametrize("clip", golden_clips("nlp07")[:4])
def test_equals_the_golden_states(clip, exact_fft):
    encoder = golden()
    figures = load_file(SYSTEM / "golden.safetensors")
    waveform = figures.get(f"wave{clip}", golden_clip(clip))
    states, mask = encode(encoder, FRONT_ENDS[encoder.front_end](waveform)[None])
    with exact_fft():
        exact, _ = encode(encoder, FRONT_ENDS[encoder.front_end](waveform)[None])
    expected = figures[f"audio_encoder{clip}"]
    assert states.shape == expected.shape
    assert mask.all()
    rounding = (states - exact).norm() / exact.norm()
    assert (states - expected).norm() / expected.norm() < max(1e-5, 2 * rounding)
    assert rounding < 1e-3


@pytest.mark.parametrize("token_order", ["time", "frequency"])
def test_the_golden_clips_are_the_same_in_a_batch(token_order):
    encoder = golden(token_order=token_order)
    banks = [FRONT_ENDS[encoder.front_end](golden_clip(clip)) for clip in golden_clips("nlp07")]
    fbank = torch.nn.utils.rnn.pad_sequence(banks, batch_first=True, padding_value=9.0)
    states, mask = encode(encoder, fbank, torch.tensor([len(bank) for bank in banks]))
    for row, bank in enumerate(banks):
        torch.testing.assert_close(states[row, mask[row]], encode(encoder, bank[None])[0][0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.03), (torch.float16, 0.005)])
@pytest.mark.parametrize("scaling", ["beats", "published"])
def test_half_precision_stays_near(dtype, tolerance, scaling):
    encoder = golden(scaling)
    fbank = FRONT_ENDS[encoder.front_end](golden_clip(golden_clips("nlp07")[:3][-1]))[None]
    expected = encode(encoder, fbank)[0]
    with torch.autocast("cpu", dtype):
        assert (encode(encoder, fbank)[0].float() - expected).norm() / expected.norm() < tolerance
    states, _ = encode(encoder.to(dtype), fbank)
    assert states.dtype == dtype
    assert (states.float() - expected).norm() / expected.norm() < tolerance


# The spectrogram


def reference_spectrogram(waveform):
    """torchaudio's definition, written out."""
    padded = np.pad(waveform, 256, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    frames = np.stack([padded[i * 160 : i * 160 + 512] * window for i in range(1 + len(waveform) // 160)])
    power = np.abs(np.fft.rfft(frames)) ** 2
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 66) / 2595) - 1)
    hertz = np.linspace(0, 8000, 257)[:, None]
    rising = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
    decibels = 10 * np.log10(np.maximum(power @ np.maximum(0, np.minimum(rising, falling)), 1e-10))
    return np.maximum(decibels, decibels.max() - 120)


@pytest.mark.parametrize("samples", [257, 16_000, 16_159, 16_160])
def test_the_spectrogram_is_torchaudios(samples):
    waveform = 0.1 * noise(samples)
    expected = reference_spectrogram(waveform.double().numpy())
    actual = ced_spectrogram(waveform)
    assert actual.shape == (1 + samples // 160, 64)
    assert actual.dtype == torch.float32
    np.testing.assert_allclose(actual, expected, atol=2e-3)


def test_the_filters_are_those_in_the_golden_file():
    published = torch.load(SYSTEM / "ced.pt", weights_only=True)["front_end.0.mel_scale.fb"]
    impulse = torch.zeros(4096)
    impulse[2080] = 1.0  # in the middle of a frame: equal power everywhere
    torch.testing.assert_close(10 ** (ced_spectrogram(impulse)[13] / 10), published.sum(0), atol=1e-4, rtol=1e-4)


def test_120_db_below_the_loudest_place_is_the_clips_own_floor():
    silence = torch.zeros(16_000)
    assert ced_spectrogram(silence).unique().tolist() == [-100.0]
    loud, quiet = silence.clone(), silence.clone()
    loud[8_000:9_000] = noise(1_000)
    quiet[8_000:9_000] = noise(1_000) * 1e-3
    together = ced_spectrogram(torch.stack([loud, quiet]))
    assert together[0].min() == together[0].max() - 120
    assert together[1].min() == -100
    for row, clip in enumerate([loud, quiet]):
        torch.testing.assert_close(together[row], ced_spectrogram(clip), atol=1e-4, rtol=0)


def test_the_two_front_ends_differ_by_beats_figures_alone():
    waveform = 0.1 * noise(8_000)
    decibels, scaled = (FRONT_ENDS[tiny(scaling).front_end](waveform) for scaling in ("published", "beats"))
    torch.testing.assert_close(decibels, ced_spectrogram(waveform), atol=0, rtol=0)
    torch.testing.assert_close(scaled, (decibels - BEATS_MEAN) / (2 * BEATS_STD))


def test_the_spectrogram_refuses_less_than_half_a_window():
    with pytest.raises(DataError, match="256 samples"):
        ced_spectrogram(noise(256))


# States, orders, pieces


@pytest.mark.parametrize("token_order", ["time", "frequency"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("lengths", [[80, 63, 16], [70, 79, 33], [400, 17, 95], [84, 85, 99], [100, 168, 184]])
def test_padding_changes_no_row(lengths, training, token_order):
    encoder = tiny(token_order=token_order).train(training)
    fbank = noise(3, max(lengths) + 5, 64)  # what stands behind a row's end must not matter, so it is noise too
    states, mask = encode(encoder, fbank, torch.tensor(lengths))
    assert states.shape == (*mask.shape, 32)
    assert mask.any(0).all()
    for row, length in enumerate(lengths):
        alone, all_real = encode(encoder, fbank[row : row + 1, :length])
        assert all_real.all()
        assert alone.shape[1] == 4 * (length // 84 * 5 + length % 84 // 16)
        assert mask[row].tolist() == [place < alone.shape[1] for place in range(mask.shape[1])]
        torch.testing.assert_close(states[row, mask[row]], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("token_order", "place"), [("time", 2 * 4 + 1), ("frequency", 1 * 5 + 2)])
def test_the_order_of_states(token_order, place):
    encoder = tiny(token_order=token_order)
    for block in encoder.blocks:
        block.attn.proj.weight.data.zero_()  # so nothing mixes places
    fbank = noise(1, 80, 64)
    changed = fbank.clone()
    changed[:, 32:48, 16:32] += 1.0  # third step, second band
    difference = (encode(encoder, fbank)[0] - encode(encoder, changed)[0]).abs().sum(-1)[0]
    assert difference.nonzero().flatten().tolist() == [place]


def test_both_orders_hold_the_same_states():
    fbank, lengths = noise(2, 80, 64), torch.tensor([80, 50])
    (by_time, mask), (by_band, other_mask) = (
        encode(tiny(token_order=order), fbank, lengths) for order in ("time", "frequency")
    )
    assert torch.equal(mask, other_mask)
    for row, steps in ((0, 5), (1, 3)):
        expected = by_time[row, : steps * 4].unflatten(0, (steps, 4)).transpose(0, 1).flatten(0, 1)
        torch.testing.assert_close(by_band[row, : steps * 4], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("token_order", ["time", "frequency"])
def test_what_is_longer_than_the_table_is_encoded_in_pieces(token_order):
    encoder = tiny(token_order=token_order)
    fbank = noise(1, 84 + 84 + 40, 64)
    pieces = [encode(encoder, fbank[:, start : start + 84])[0] for start in (0, 84, 168)]
    assert [piece.shape[1] for piece in pieces] == [20, 20, 8]
    states, mask = encode(encoder, fbank)
    assert mask.all()
    torch.testing.assert_close(states, torch.cat(pieces, dim=1), atol=1e-5, rtol=1e-5)


def test_frames_that_fill_no_patch_are_dropped():
    encoder = tiny()
    fbank = noise(1, 99, 64)
    for length, whole in ((63, 48), (84, 80), (99, 84)):  # the last: a second piece of 15 frames
        expected = encode(encoder, fbank[:, :whole])[0]
        torch.testing.assert_close(encode(encoder, fbank[:, :length])[0], expected)
        torch.testing.assert_close(encode(encoder, fbank, torch.tensor([length]))[0], expected)


def test_a_clip_of_30_s():
    fbank = noise(1, 3001, 64)
    published = CedConfig(embed_dim=16, depth=1, num_heads=2)
    steps = 63 + 63 + 61  # of 1,012, 1,012 and 977 frames
    assert encode(CedEncoder(published).eval(), fbank)[0].shape == (1, steps * 4, 16)
    stretched = CedEncoder(published, scaling="beats").eval()
    assert stretched.time_pos_embed.shape == (1, 16, 1, 187)
    assert encode(stretched, fbank)[0].shape == (1, 187 * 4, 16)


def test_both_tables_tell_positions():
    encoder = tiny()
    fbank = torch.ones(1, 80, 64)
    encoder.init_bn[0].running_mean.zero_()
    for name in ("running_var", "weight", "bias"):
        getattr(encoder.init_bn[0], name).data.fill_(1.0)
    states = encode(encoder, fbank)[0][0].unflatten(0, (5, 4))
    assert not torch.allclose(states[0], states[1], atol=1e-3)
    assert not torch.allclose(states[:, 0], states[:, 1], atol=1e-3)
    encoder.time_pos_embed.data.zero_()
    states = encode(encoder, fbank)[0][0].unflatten(0, (5, 4))
    torch.testing.assert_close(states[0], states[4], atol=1e-5, rtol=1e-5)
    encoder.freq_pos_embed.data.zero_()
    states = encode(encoder, fbank)[0][0]
    torch.testing.assert_close(states[0], states[3], atol=1e-5, rtol=1e-5)


def test_norms_have_the_published_epsilon():
    """Too small a part of the golden states to be seen there."""
    norms = [module for module in tiny().modules() if isinstance(module, torch.nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-6}
    assert len(norms) == 2 * 3 + 1


def test_refuses_too_little():
    encoder = tiny()
    with pytest.raises(DataError, match="at least 16 frames"):
        encoder(noise(1, 15, 64))
    with pytest.raises(DataError, match="at least 16 frames"):
        encoder(noise(2, 40, 64), torch.tensor([40, 9]))
    with pytest.raises(DataError, match="64 mel bins, got 128"):
        encoder(noise(1, 40, 128))


# Training


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("token_order", ["time", "frequency"])
def test_everything_trains_even_after_inference(bfloat16, token_order):
    torch.manual_seed(0)
    encoder = CedEncoder(TINY, token_order=token_order)
    fbank, lengths = noise(3, 200, 64), torch.tensor([84, 200, 40])
    with torch.inference_mode():
        encoder(fbank, lengths)
    before = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    encoder.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        states, mask = encoder(fbank, lengths)
        (states * noise(*states.shape))[mask].float().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name
    assert all(torch.equal(buffer, before[name]) for name, buffer in encoder.named_buffers())


@pytest.mark.parametrize("field", ["drop_rate", "attn_drop_rate", "drop_path_rate"])
def test_dropout_fields_act_in_training_only(field):
    encoder = tiny(**{field: 0.5})
    fbank = noise(1, 64, 64)

    def distinct():
        return len({encode(encoder, fbank)[0].sum().item() for _ in range(8)})

    assert distinct() == 1
    encoder.train()
    assert distinct() > 1


@pytest.mark.parametrize("scaling", ["published", "beats"])
def test_random_weights_start_from_spectrograms_of_common_size(scaling):
    encoder = CedEncoder(TINY, scaling=scaling)
    pink = torch.fft.irfft(torch.fft.rfft(noise(32_000)) / torch.arange(1, 16_002).sqrt())  # as loud as recordings are
    pink *= 0.05 / pink.std()
    normed = encoder.init_bn(FRONT_ENDS[encoder.front_end](pink))
    assert abs(normed.mean()) < 1.5
    torch.testing.assert_close(normed, CedEncoder(TINY).init_bn(ced_spectrogram(pink)), atol=1e-4, rtol=1e-4)


def test_scores_beyond_half_precision_are_survived():
    encoder = tiny()
    for block in encoder.blocks:
        block.attn.qkv.weight.data *= 300
    fbank, lengths = noise(2, 64, 64), torch.tensor([64, 32])
    with torch.autocast("cpu", torch.float16):
        assert torch.isfinite(encode(encoder, fbank, lengths)[0]).all()


@pytest.mark.parametrize(
    ("width", "heads", "millions"), [(192, 3, 5.5), (256, 4, 9.6), (384, 6, 22), (768, 12, 86)]
)  # tiny, mini, small, base, with their 527 classes
def test_sizes_are_the_published_ones(width, heads, millions):
    with torch.device("meta"):
        encoder = CedEncoder(CedConfig(embed_dim=width, num_heads=heads))
    assert encoder.output_dim == width
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    assert parameters + 527 * width == pytest.approx(millions * 1e6, rel=0.02)
