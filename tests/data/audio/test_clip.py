"""Decoding: the organisers' waveforms to the bit, and a clear word about every file that cannot be used."""

import os
import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from safetensors.numpy import load_file

from helpers.audio import write
from helpers.paths import GOLDEN, golden_clips
from nota_cli.data.audio.clip import SAMPLE_RATE, duration, load_audio, load_clip
from nota_cli.errors import AudioError, DataError

SYSTEM = GOLDEN / "nota"


def tone(seconds, rate=SAMPLE_RATE, hertz=440.0):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def wav_header(rate, channels, frames):
    """A WAV file of 16-bit samples up to where they begin."""
    size = 2 * channels * frames
    form = struct.pack("<HHIIHH", 1, channels, rate, 2 * channels * rate, 2 * channels, 16)
    return struct.pack("<4sI4s4sI16s4sI", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, form, b"data", size)


@pytest.mark.parametrize("clip", sorted({1, 2, 3}.intersection(golden_clips("nota"))))  # 8 kHz; 44.1 kHz stereo; 0.4 s
def test_equals_the_organisers_waveform_to_the_bit(clip):
    expected = load_file(SYSTEM / "golden.safetensors")[f"wave{clip}"]
    actual = load_audio(SYSTEM / "audio" / f"a{clip}.wav")
    assert actual.dtype == np.float32
    np.testing.assert_array_equal(actual, expected)


def test_cuts_at_thirty_seconds(tmp_path):
    path = write(tmp_path / "long.flac", np.random.default_rng(1).normal(0, 0.1, 31 * SAMPLE_RATE))
    samples, rate = soundfile.read(path, dtype="float32")
    assert rate == SAMPLE_RATE
    assert len(samples) > 30 * rate
    np.testing.assert_array_equal(load_audio(path), samples[: 30 * rate])


def test_reading_only_what_is_kept_gives_the_same_as_reading_all(tmp_path):
    path = write(tmp_path / "long.flac", np.random.default_rng(0).normal(0, 0.1, 44_100 * 8), 44_100)
    whole = load_audio(path)
    np.testing.assert_allclose(load_audio(path, max_seconds=3.0), whole[: 3 * SAMPLE_RATE], atol=1e-6)


def test_keeps_the_first_channel(tmp_path):
    left, right = tone(1.5), tone(1.5, hertz=900.0)
    path = write(tmp_path / "stereo.wav", np.stack([left, right], axis=1), subtype="FLOAT")
    np.testing.assert_array_equal(load_audio(path), left.astype(np.float32))


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 48_000])
@pytest.mark.parametrize("samples", [1, 777, 30_001])
def test_length_is_that_of_the_padded_clip_rounded_up(tmp_path, rate, samples):
    path = write(tmp_path / "clip.wav", np.full(samples, 0.1), rate)
    expected = -(-max(samples, rate) * SAMPLE_RATE // rate)
    assert load_audio(path).shape == (expected,)


def test_short_clips_get_zeros_behind(tmp_path):
    waveform = load_audio(write(tmp_path / "short.wav", tone(0.25)))
    assert waveform.shape == (SAMPLE_RATE,)
    assert np.any(waveform[: SAMPLE_RATE // 4])
    assert not np.any(waveform[SAMPLE_RATE // 4 :])


def test_resampling_keeps_the_tone(tmp_path):
    waveform = load_audio(write(tmp_path / "tone.wav", tone(2, 44_100), 44_100))
    inner = slice(1_000, -1_000)
    np.testing.assert_allclose(waveform[inner], tone(2)[inner], atol=1e-3)


def test_a_clip_of_several_files_has_a_tenth_of_silence_between(tmp_path):
    paths = [write(tmp_path / f"{i}.wav", np.full(n, 0.25)) for i, n in enumerate([16_000, 8_000, 4_000])]
    waveform = load_clip(paths)
    assert waveform.shape == (16_000 + 1_600 + 8_000 + 1_600 + 4_000,)
    silent = np.flatnonzero(waveform == 0)
    np.testing.assert_array_equal(silent, [*range(16_000, 17_600), *range(25_600, 27_200)])


def test_short_files_of_a_clip_are_padded_together_not_one_by_one(tmp_path):
    paths = [write(tmp_path / f"{i}.wav", tone(0.3)) for i in range(2)]
    waveform = load_clip(paths)
    assert waveform.shape == (SAMPLE_RATE,)
    np.testing.assert_array_equal(waveform[6_400:11_200], waveform[:4_800])


def test_files_of_unlike_rates_join(tmp_path):
    paths = [write(tmp_path / "a.wav", tone(1)), write(tmp_path / "b.wav", tone(1, 8_000), 8_000)]
    waveform = load_clip(paths)
    assert waveform.shape == (2 * SAMPLE_RATE + 1_600,)
    np.testing.assert_allclose(waveform[18_600:32_600], tone(1)[1_000:15_000], atol=1e-3)


def test_a_clip_is_cut_as_a_whole(tmp_path):
    paths = [write(tmp_path / f"{i}.wav", tone(2)) for i in range(2)]
    assert load_clip(paths, max_seconds=3.0).shape == (3 * SAMPLE_RATE,)


def refusal(path, **kwargs):
    with pytest.raises(DataError) as caught:
        load_audio(path, **kwargs)
    return str(caught.value)


def test_refusals_name_the_file_and_the_row(tmp_path):
    message = refusal(tmp_path / "gone.wav", row=12)
    assert str(tmp_path / "gone.wav") in message
    assert "row 12" in message
    assert "--audio-root" in message


@pytest.mark.parametrize("name", ["gone.wav", ".", "a\0.wav", "a" * 5_000])
def test_a_file_that_no_row_names(tmp_path, name):
    message = refusal(tmp_path / name)
    assert "annotation" not in message
    assert "--audio-root" not in message
    assert "the path" in message


def test_refuses_what_is_not_audio(tmp_path):
    (tmp_path / "text.wav").write_text("this is no sound at all, whatever its name says\n" * 20)
    (tmp_path / "empty.wav").touch()
    (tmp_path / "headerless.raw").write_bytes(bytes(4_000))
    assert "not audio" in refusal(tmp_path / "text.wav")
    assert "empty" in refusal(tmp_path / "empty.wav")
    assert "not audio" in refusal(tmp_path / "headerless.raw")
    assert "cannot be read" in refusal(tmp_path)  # a folder


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind this user")
def test_refuses_a_file_it_may_not_read(tmp_path):
    path = write(tmp_path / "private.wav", tone(1))
    path.chmod(0)
    assert "permission" in refusal(path).lower()


@pytest.mark.parametrize("suffix", ["wav", "flac"])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_refuses_a_truncated_file(tmp_path, suffix, kept):
    path = write(tmp_path / f"cut.{suffix}", np.random.default_rng(0).normal(0, 0.1, 32_000))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    assert "again" in refusal(path)


def test_a_wav_cut_behind_the_part_that_is_read_is_refused_too(tmp_path):
    path = write(tmp_path / "cut.wav", tone(10))
    path.write_bytes(path.read_bytes()[:-2_000])
    assert "truncated" in refusal(path, max_seconds=1.0)


@pytest.mark.parametrize("size", [0x7FFF_F000, 0xFFFF_FFFF])
def test_a_wav_written_to_a_pipe_is_read(tmp_path, size):
    path = write(tmp_path / "streamed.wav", tone(2))
    content = bytearray(path.read_bytes())
    at = content.index(b"data")
    content[4:8] = struct.pack("<I", min(size + 36, 0xFFFF_FFFF))
    content[at + 4 : at + 8] = struct.pack("<I", size)
    path.write_bytes(content)
    assert load_audio(path).shape == (2 * SAMPLE_RATE,)


@pytest.mark.parametrize("seconds", [0.3, 5, 29, 31, 45])
@pytest.mark.parametrize("rate", [16_000, 22_050])
def test_a_flac_written_to_a_pipe_is_read(tmp_path, seconds, rate):
    whole = write(tmp_path / "whole.flac", np.random.default_rng(4).normal(0, 0.1, round(seconds * rate)), rate)
    content = bytearray(whole.read_bytes())
    content[21] &= 0xF0  # the number of samples, 36 bits
    content[22:26] = bytes(4)
    path = tmp_path / "streamed.flac"
    path.write_bytes(content)
    assert duration(path) == duration(whole) == pytest.approx(seconds, abs=1e-4)
    np.testing.assert_array_equal(load_audio(path), load_audio(whole))
    for start, stop in [(0.0, 2.0), (0.2, 4.5), (seconds / 2, 60.0), (seconds - 0.1, seconds)]:
        part = load_clip([path], start=start, stop=stop)
        np.testing.assert_array_equal(part, load_clip([whole], start=start, stop=stop))
    np.testing.assert_array_equal(load_clip([path, whole, path]), load_clip([whole] * 3))
    with pytest.raises(DataError, match="ends before second 50"):
        load_clip([path], start=50.0, stop=60.0)


def test_chunks_round_the_samples_do_no_harm(tmp_path):
    content = write(tmp_path / "plain.wav", tone(1)).read_bytes()
    at = content.index(b"data")
    odd = b"note" + struct.pack("<I", 3) + b"abc\0"
    path = tmp_path / "chunks.wav"
    path.write_bytes(content[:4] + struct.pack("<I", len(content) + 16) + content[8:at] + odd + content[at:] + odd)
    np.testing.assert_array_equal(load_audio(path), load_audio(tmp_path / "plain.wav"))


def test_refuses_a_file_without_samples(tmp_path):
    assert "no samples" in refusal(write(tmp_path / "none.wav", np.zeros(0)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_refuses_samples_that_are_no_numbers(tmp_path, bad):
    samples = tone(1)
    samples[100] = bad
    assert "NaN or infinite" in refusal(write(tmp_path / "bad.wav", samples, subtype="FLOAT"))


def test_refuses_a_clip_of_no_files():
    with pytest.raises(DataError, match="row 3"):
        load_clip([], row=3)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 192_000])
def test_the_first_part_of_a_long_file_equals_reading_it_whole_to_the_bit(tmp_path, rate):
    """What the organisers do with a long clip: read everything, resample everything, cut."""
    samples = np.random.default_rng(1).normal(0, 0.1, rate * 9)
    path = write(tmp_path / "long.wav", samples, rate, subtype="DOUBLE")
    whole = samples if rate == SAMPLE_RATE else soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ")
    np.testing.assert_array_equal(load_audio(path, max_seconds=3.0), whole[: 3 * SAMPLE_RATE].astype(np.float32))


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 44_101])
def test_a_window_is_that_part_of_the_whole(tmp_path, rate):
    path = write(tmp_path / "long.wav", np.random.default_rng(2).normal(0, 0.1, rate * 9), rate, subtype="DOUBLE")
    whole = load_audio(path)
    for start, stop in [(0.0, 2.5), (0.3, 2.0), (4.0, 7.125), (7.5, 20.0)]:
        part = load_clip([path], start=start, stop=stop)
        expected = whole[round(start * SAMPLE_RATE) : round(stop * SAMPLE_RATE)]
        assert part.shape == expected.shape
        np.testing.assert_allclose(part, expected, atol=0 if rate == SAMPLE_RATE or not start else 1e-6)


def test_windows_of_a_clip_of_several_files(tmp_path):
    files = [write(tmp_path / f"{i}.wav", tone(n, hertz=300 + 99 * i)) for i, n in enumerate([2.0, 1.5, 0.7])]
    unlike = [files[0], write(tmp_path / "8k.wav", tone(1.5, 8_000), 8_000), files[2]]
    for paths in (files, unlike):
        whole = load_clip(paths)
        assert duration(*paths) == pytest.approx(len(whole) / SAMPLE_RATE, abs=1e-3)
        parts = [load_clip(paths, start=i / 2, stop=(i + 1) / 2, min_seconds=0.0) for i in range(9)]
        np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)


def test_a_window_is_filled_up_and_does_not_begin_behind_the_end(tmp_path):
    path = write(tmp_path / "clip.wav", np.full(40_000, 0.25))
    last = load_clip([path], start=2.0, stop=32.0)
    assert last.shape == (SAMPLE_RATE,)
    assert np.count_nonzero(last) == 8_000
    with pytest.raises(DataError, match="ends before second 3"):
        load_clip([path], start=3.0, stop=33.0)


def test_ten_hours_are_not_read_whole(tmp_path):
    path = tmp_path / "long.wav"
    rate, seconds = 8_000, 36_000
    with path.open("wb") as file:
        file.write(wav_header(rate, 1, rate * seconds))
        file.truncate(44 + 2 * rate * seconds)  # a sparse file: zeros that lie nowhere
    assert duration(path) == seconds
    tracemalloc.start()
    first, late = load_audio(path), load_clip([path], start=35_000.0, stop=35_030.0)
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()
    assert first.shape == late.shape == (30 * SAMPLE_RATE,)


def test_many_channels_at_a_high_rate_in_little_memory(tmp_path):
    rate, channels, frames = 192_000, 24, 192_000 * 12
    path = tmp_path / "array.wav"
    with path.open("wb") as file:
        file.write(wav_header(rate, channels, frames))
        file.truncate(44 + 2 * channels * frames)
    tracemalloc.start()
    assert load_audio(path).shape == (12 * SAMPLE_RATE,)
    assert tracemalloc.get_traced_memory()[1] < 250e6  # all channels as float64 would be 442 MB
    tracemalloc.stop()


def test_the_first_of_many_channels_read_in_parts_is_the_same(tmp_path, monkeypatch):
    path = write(tmp_path / "four.flac", np.random.default_rng(3).normal(0, 0.1, (40_000, 4)), 44_100)
    expected = load_audio(path)
    monkeypatch.setattr("nota_cli.data.audio.sound_file.BLOCK_SAMPLES", 4_000)
    np.testing.assert_array_equal(load_audio(path), expected)


def test_content_decides_not_the_ending(tmp_path):
    flac = write(tmp_path / "a.flac", tone(1.5))
    for name in ("a.wav", "a.raw", "a.mp3", "a", "a.pdf"):
        (tmp_path / name).write_bytes(flac.read_bytes())
        np.testing.assert_array_equal(load_audio(tmp_path / name), load_audio(flac))


@pytest.mark.parametrize(
    ("content", "seems"),
    [
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"\0\0\0\x20ftypM4A \0\0\0\0", "an MP4 or M4A"),
    ],
)
def test_tells_what_it_is_instead(tmp_path, content, seems):
    (tmp_path / "a.wav").write_bytes(content + bytes(100))
    assert seems in refusal(tmp_path / "a.wav")


def test_names_that_no_terminal_prints(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9\x1b[31m.wav"))
    write(tmp_path / "a.wav", tone(1)).rename(path)
    assert load_audio(path).shape == (SAMPLE_RATE,)
    path.write_text("no sound")
    message = refusal(path)
    message.encode()
    assert "caf\\udce9\\x1b[31m.wav" in message
    assert "no file can have this name" in refusal(tmp_path / "\ud800.wav")
    assert "no file can have this name" in refusal("a\0.wav")
    assert "too long" in refusal("a" * 5_000)


def test_links_in_a_circle_pipes_and_folders(tmp_path):
    (tmp_path / "a.wav").symlink_to(tmp_path / "b.wav")
    (tmp_path / "b.wav").symlink_to(tmp_path / "a.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    assert "circle" in refusal(tmp_path / "a.wav")
    assert "pipe or device" in refusal(tmp_path / "pipe.wav")
    assert "pipe or device" in refusal("/dev/zero")
    assert "a folder" in refusal(tmp_path)


@pytest.mark.parametrize(("rate", "channels", "frames"), [(0, 1, 100), (999, 1, 100), (768_001, 1, 9), (16_000, 0, 9)])
def test_refuses_absurd_headers(tmp_path, rate, channels, frames):
    path = tmp_path / "absurd.wav"
    path.write_bytes(wav_header(rate, channels, frames) + bytes(2 * channels * frames))
    assert "absurd.wav" in refusal(path)


@pytest.mark.parametrize("rate", [1_000, 767_999, 768_000])
def test_rates_at_the_edge_of_what_is_allowed(tmp_path, rate):
    waveform = load_audio(write(tmp_path / "edge.wav", tone(1.5, rate, 100.0), rate))
    np.testing.assert_allclose(waveform[2_000:20_000], tone(1.5, hertz=100.0)[2_000:20_000], atol=1e-2)


def test_refuses_samples_that_overflow(tmp_path):
    samples = tone(1)
    samples[7] = 1e300
    assert "infinite" in refusal(write(tmp_path / "loud.wav", samples, subtype="DOUBLE"))
    assert np.isfinite(load_audio(write(tmp_path / "ints.wav", tone(1) * 2**31, subtype="FLOAT"))).all()


def test_zeros_for_chunks_end(tmp_path):
    (tmp_path / "zeros.wav").write_bytes(b"RIFF\0\0\0\0WAVE" + bytes(10_000_000))
    refusal(tmp_path / "zeros.wav")


def test_an_error_crosses_process_borders_whole():
    error = AudioError("a.wav", "is broken", "Mend it.", 3)
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error) == "a.wav (annotation row 3): is broken. Mend it."
    assert (copy.path, copy.reason, copy.remedy, copy.row) == ("a.wav", "is broken", "Mend it.", 3)
