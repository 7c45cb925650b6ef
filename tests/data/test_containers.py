"""Files that end too early or state no size: told, or read as what they are."""

import struct

import numpy as np
import pytest
import soundfile

from nota_cli.data.annotation import Row
from nota_cli.data.audio import SAMPLE_RATE, duration, load_audio, load_clip
from nota_cli.data.scan import scan
from nota_cli.errors import AudioError

NOISE = np.random.default_rng(0).normal(0, 0.1, 8 * SAMPLE_RATE)
KINDS = ["VORBIS", "OPUS"]


def write(path, samples=NOISE, rate=SAMPLE_RATE, **kwargs):
    soundfile.write(path, samples, rate, **kwargs)
    return path


def ogg(path, kind, samples=NOISE):
    return write(path, samples, format="OGG", subtype=kind)


def refused(path):
    for read in (load_audio, duration):
        with pytest.raises(AudioError, match="truncated") as caught:
            read(path)
    (bad,) = scan([Row(0, path.name, "asr", None, None, None, ())], path.parent)
    assert bad.reason == caught.value.reason
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.95])
def test_a_part_of_an_ogg_stream_is_refused(tmp_path, kind, kept):
    content = ogg(tmp_path / "whole.ogg", kind, np.tile(NOISE, 5)).read_bytes()
    path = tmp_path / "part.ogg"
    path.write_bytes(content[: int(len(content) * kept)])
    error = refused(path)
    assert "Copy it again" in error.remedy


@pytest.mark.parametrize("kind", KINDS)
def test_an_ogg_stream_may_be_cut_anywhere_in_its_last_page(tmp_path, kind):
    content = ogg(tmp_path / "whole.ogg", kind, NOISE[:8_000]).read_bytes()
    last = content.rindex(b"OggS")
    path = tmp_path / "part.ogg"
    for end in (last, last + 3, last + 6, last + 26, last + 28, len(content) - 1):
        path.write_bytes(content[:end])
        refused(path)


def test_zeros_in_place_of_what_was_not_fetched_are_no_pages(tmp_path):
    content = ogg(tmp_path / "whole.ogg", "VORBIS").read_bytes()
    path = tmp_path / "part.ogg"
    path.write_bytes(content[: len(content) // 2] + bytes(300_000))
    refused(path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("behind", [b"", b"\0", b"TAG" + bytes(125), bytes(200_000), b"Ogg", b"no page" * 40_000])
def test_a_whole_ogg_stream_may_have_anything_behind_it(tmp_path, kind, behind):
    whole = ogg(tmp_path / "whole.ogg", kind)
    path = tmp_path / "more.ogg"
    path.write_bytes(whole.read_bytes() + behind)
    np.testing.assert_array_equal(load_audio(path), load_audio(whole))


@pytest.mark.parametrize("first", KINDS)
def test_streams_in_a_chain_end_with_the_last_of_them(tmp_path, first):
    links = [ogg(tmp_path / f"{n}.ogg", first, NOISE[:20_000]).read_bytes() for n in range(2)]
    path = tmp_path / "chain.ogg"
    path.write_bytes(b"".join(links))
    assert load_audio(path).shape[0] >= SAMPLE_RATE
    path.write_bytes(links[0] + links[1][: len(links[1]) // 2])
    refused(path)


def unsized(path, form, behind=b""):
    """The file as a program leaves it that wrote to a pipe: 0 for the size of the samples."""
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[4:8] = struct.pack("<I", form)
    content[at : at + 4] = bytes(4)
    other = path.with_name("unsized.wav")
    other.write_bytes(content + behind)
    return other


@pytest.mark.parametrize("form", [0, 8, 36, 2 * len(NOISE) + 36, 0xFFFF_FFFF])
def test_a_wav_that_states_no_size_reaches_to_its_end(tmp_path, form):
    whole = write(tmp_path / "whole.wav")
    path = unsized(whole, form)
    assert duration(path) == duration(whole)
    np.testing.assert_array_equal(load_audio(path), load_audio(whole))
    np.testing.assert_array_equal(load_clip([path], start=2.5, stop=4.0), load_clip([whole], start=2.5, stop=4.0))
    assert scan([Row(0, path.name, "asr", None, None, None, ())], tmp_path).durations == [8.0]


@pytest.mark.parametrize("how", [{"subtype": "FLOAT"}, {"format": "WAVEX"}, {"subtype": "PCM_24"}])
def test_other_wavs_that_state_no_size(tmp_path, how):
    whole = write(tmp_path / "whole.wav", np.stack([NOISE, -NOISE], axis=1), 44_100, **how)
    np.testing.assert_array_equal(load_audio(unsized(whole, 0)), load_audio(whole))


def test_silence_that_states_no_size_is_no_chunk(tmp_path):
    path = unsized(write(tmp_path / "silent.wav", np.zeros(SAMPLE_RATE * 2)), 36)
    assert duration(path) == 2.0
    assert not load_audio(path).any()


@pytest.mark.parametrize("behind", [b"", b"LIST" + struct.pack("<I", 4) + b"INFO"])
def test_a_wav_without_samples_has_none_whatever_chunk_follows(tmp_path, behind):
    path = unsized(write(tmp_path / "none.wav", np.zeros(0)), 36 + len(behind), behind)
    for read in (duration, load_audio):
        with pytest.raises(AudioError, match="holds no samples"):
            read(path)
