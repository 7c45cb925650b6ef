"""Files that end too early or state no size: told, or read as what they are."""

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nota_cli.data.annotation import Row
from nota_cli.data.audio import SAMPLE_RATE, duration, load_audio, load_clip
from nota_cli.data.scan import scan
from nota_cli.errors import AudioError

NOISE = np.random.default_rng(0).normal(0, 0.1, 8 * SAMPLE_RATE)
KINDS = ["VORBIS", "OPUS"]
CASES = Path(__file__).resolve().parents[3] / "shared" / "cases" / "audio"


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


def heard(path):
    """The whole file, in every way in which its length is known."""
    waveform = load_clip([path], min_seconds=0.0, max_seconds=600.0)
    seconds = len(waveform) / SAMPLE_RATE
    assert duration(path) == pytest.approx(seconds, abs=1e-4)
    found = scan([Row(0, path.name, "asr", None, None, None, ())], path.parent, whole=True)
    assert not found
    assert found.durations == [duration(path)]
    return waveform


JOINED = [
    {"format": "FLAC"},
    {"format": "OGG", "subtype": "VORBIS"},
    {"format": "OGG", "subtype": "OPUS"},
    {"format": "WAV"},
    {"format": "WAV", "subtype": "FLOAT"},
    {"format": "RF64"},
    {"format": "W64"},
    {"format": "AIFF"},
    {"format": "CAF"},
    {"format": "AU"},
]


@pytest.mark.parametrize("how", JOINED, ids=lambda how: " ".join(how.values()))
@pytest.mark.parametrize("lengths", [(2.0, 2.0), (1.0, 3.0), (0.7, 0.4, 1.1)])
def test_files_that_were_joined_are_heard_to_the_last(tmp_path, how, lengths):
    parts = []
    for number, seconds in enumerate(lengths):
        samples = np.random.default_rng(number).normal(0, 0.1, round(seconds * SAMPLE_RATE))
        parts.append(write(tmp_path / f"{number}.x", samples, **how))
    path = tmp_path / "joined.x"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    whole = heard(path)
    expected = np.concatenate([heard(part) for part in parts])
    np.testing.assert_array_equal(whole, expected)
    np.testing.assert_array_equal(load_audio(path), expected[: 30 * SAMPLE_RATE])
    np.testing.assert_allclose(load_clip([path], start=0.5, stop=1.5), expected[8_000:24_000], atol=1e-3)
    np.testing.assert_array_equal(load_clip([path, path])[: len(whole)], whole)


@pytest.mark.parametrize("how", [{"format": "OGG", "subtype": "VORBIS"}, {"format": "FLAC"}, {"format": "WAV"}])
def test_joined_files_of_unlike_rates(tmp_path, how):
    low = write(tmp_path / "low.x", NOISE[:16_000], 8_000, **how)
    high = write(tmp_path / "high.x", np.stack([NOISE[:66_150]] * 2, axis=1), 44_100, **how)
    path = tmp_path / "joined.x"
    path.write_bytes(low.read_bytes() + high.read_bytes())
    np.testing.assert_allclose(heard(path), np.concatenate([heard(low), heard(high)]), atol=1e-6)


def test_the_same_ogg_stream_twice(tmp_path):
    """Even the serial numbers are the same."""
    once = ogg(tmp_path / "once.ogg", "VORBIS", NOISE[:20_000])
    path = tmp_path / "twice.ogg"
    path.write_bytes(once.read_bytes() * 2)
    np.testing.assert_array_equal(heard(path), np.tile(heard(once), 2))


def test_a_joined_flac_shows_in_the_scan_where_its_size_tells(tmp_path):
    once = write(tmp_path / "once.flac", NOISE[:40_000])
    path = tmp_path / "thrice.flac"
    path.write_bytes(once.read_bytes() * 3)
    row = Row(0, path.name, "asr", None, None, None, ())
    assert scan([row], tmp_path).durations == [7.5]
    tag = b"ID3\x04\0\0\0\0\0\x0a" + bytes(10)
    path.write_bytes((tag + once.read_bytes()) * 2)
    assert len(load_audio(path)) == 80_000


def marked(content, name, fill, size=4, back=0):
    """Content whose chunk `name` states something else for its size."""
    at = content.index(name) + len(name) - back
    return content[:at] + fill * size + content[at + size :]


def unsized_rf64(content):
    at = content.index(b"ds64") + 8
    return content[:at] + bytes(24) + content[at + 24 :]


W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
STREAMED = {
    "rf64": ({"format": "RF64"}, unsized_rf64),
    "rf64 float": ({"format": "RF64", "subtype": "FLOAT"}, unsized_rf64),
    "caf -1": ({"format": "CAF"}, lambda content: marked(content, b"data", b"\xff", 8)),
    "caf 0": ({"format": "CAF"}, lambda content: marked(content, b"data", b"\0", 8)),
    "w64 0": ({"format": "W64"}, lambda content: marked(content, W64_DATA, b"\0", 8)),
    "w64 -1": ({"format": "W64"}, lambda content: marked(content, W64_DATA, b"\xff", 8)),
    "au -1": ({"format": "AU"}, lambda content: content[:8] + b"\xff" * 4 + content[12:]),
    "aiff 0": ({"format": "AIFF"}, lambda content: marked(marked(content, b"FORM", b"\0"), b"SSND", b"\0")),
    "wav -1": ({"format": "WAV"}, lambda content: marked(marked(content, b"RIFF", b"\xff"), b"data", b"\xff")),
    "wav 0": ({"format": "WAV"}, lambda content: marked(marked(content, b"RIFF", b"\0"), b"data", b"\0")),
    "rifx 0": ({"format": "WAV", "endian": "BIG"}, lambda content: marked(content, b"data", b"\0")),
}


@pytest.mark.parametrize("kind", STREAMED)
def test_what_was_written_to_a_pipe_reaches_to_the_files_end(tmp_path, kind):
    how, streamed = STREAMED[kind]
    whole = write(tmp_path / "whole.x", np.stack([NOISE, -NOISE], axis=1), 22_050, **how)
    path = tmp_path / "streamed.x"
    path.write_bytes(streamed(whole.read_bytes()))
    assert path.read_bytes() != whole.read_bytes()
    np.testing.assert_array_equal(heard(path), heard(whole))


@pytest.mark.parametrize("how", [{"format": f} for f in ("WAV", "RF64", "W64", "AIFF", "CAF", "AU")], ids=str)
@pytest.mark.parametrize(("channels", "subtype", "block"), [(1, "PCM_16", 2), (2, "PCM_16", 4), (2, "PCM_24", 6)])
def test_less_than_a_sample_may_be_missing_not_more(tmp_path, how, channels, subtype, block):
    samples = np.stack([NOISE] * channels, axis=1)
    content = write(tmp_path / "whole.x", samples, subtype=subtype, **how).read_bytes()
    path = tmp_path / "short.x"
    for missing in range(1, block):
        path.write_bytes(content[:-missing])
        assert len(heard(path)) in (len(NOISE), len(NOISE) - 1)
    path.write_bytes(content[: -5 * block])
    assert "convert what there is" in refused(path).remedy


@pytest.mark.parametrize("subtype", ["MS_ADPCM", "IMA_ADPCM"])
def test_a_byte_of_a_compressed_block_is_many_samples(tmp_path, subtype):
    path = write(tmp_path / "whole.wav", subtype=subtype)
    path.write_bytes(path.read_bytes()[:-1])
    refused(path)


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not here")
@pytest.mark.parametrize(
    ("name", "seconds"),
    [("chained.ogg", 3.278), ("joined.flac", 3.278), ("rf64_pipe.wav", 1.69), ("one_byte_short.wav", 1.69)],
)
def test_cases_that_people_met(name, seconds):
    assert len(heard(CASES / name)) / SAMPLE_RATE == pytest.approx(seconds, abs=1e-3)


@pytest.mark.parametrize("how", [{"format": "CAF"}, {"format": "W64"}])
@pytest.mark.parametrize("size", [b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\0" * 8, b"\xff" * 7 + b"\x7f"])
def test_chunks_of_absurd_sizes_lead_nowhere(tmp_path, how, size):
    """Sizes of 64 bits that no offset in a file can have, or that lead back."""
    content = write(tmp_path / "whole.x", **how).read_bytes()
    name = b"desc" if how["format"] == "CAF" else b"fmt \xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
    at = content.index(name) + len(name)
    path = tmp_path / "absurd.x"
    path.write_bytes(content[:at] + size + content[at + 8 :])
    with pytest.raises(AudioError):
        load_audio(path)
