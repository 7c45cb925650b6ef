"""MP3 and MP2 whose header states no length or a wrong one: all of it is heard, and only a cut frame is a cut file."""

import struct

import numpy as np
import pytest
import soundfile

from helpers.paths import CASES
from nota_cli.data.annotation import Row
from nota_cli.data.audio.clip import SAMPLE_RATE, duration, load_audio, load_clip
from nota_cli.data.audio.headers import scan
from nota_cli.data.audio.mpeg import BLOCK, LENGTHS, read_mpeg
from nota_cli.errors import AudioError, AudioWarning

AUDIO_CASES = CASES / "audio"
ID3V1 = b"TAG" + bytes(125)
ID3V2 = b"ID3\x04\0\0\0\0\x02\x00" + b"\xff\xfb\x90\x64" * 64  # what is in a tag is no frame
APE = b"APETAGEX" + struct.pack("<IIII8x", 2000, 40, 0, 0xA000_0000) + bytes(8) + b"APETAGEX"
APE += struct.pack("<IIII8x", 2000, 40, 0, 0x8000_0000)
LYRICS = b"LYRICSBEGININD0000200000026LYRICS200"


def speechlike(seconds, rate, seed=0):
    """Noise that comes and goes, so that frames of variable rate differ much."""
    times = np.arange(round(seconds * rate)) / rate
    return np.random.default_rng(seed).normal(0, 0.2, len(times)) * (np.sin(2 * np.pi * times / 1.3) > 0.2)


def encode(path, samples, rate, mode="VARIABLE", level=0.5):
    soundfile.write(path, samples, rate, format="MP3", bitrate_mode=mode, compression_level=level)
    return path.read_bytes()


def frames_of(content):
    """The frames of a plain file, by their lengths."""
    place, frames = 0, []
    while place + 4 <= len(content):
        length = LENGTHS[int.from_bytes(content[place : place + 4], "big") >> 9 & 0xFFF]
        assert length
        frames.append(content[place : place + length])
        place += length
    return frames


def without_header(content):
    """As an encoder leaves it that cannot go back to write the Xing header."""
    first, *others = frames_of(content)
    assert b"Xing" in first or b"Info" in first
    return b"".join(others)


def written(path, content):
    path.write_bytes(content)
    return path


def seconds_of_frames(content, rate):
    samples = 1152 if rate >= 32_000 else 576
    return sum(b"Xing" not in f[:64] and b"Info" not in f[:64] for f in frames_of(content)) * samples / rate


def scanned(path):
    found = scan([Row(0, path.name, "asr", None, None, None, ())], path.parent)
    assert not found, found[0]
    return found.durations[0]


def everything(path):
    """The whole file, in every way in which its length is known."""
    waveform = load_clip([path], min_seconds=0.0, max_seconds=3600.0)
    known = duration(path)
    assert len(waveform) == pytest.approx(known * SAMPLE_RATE, abs=1)
    assert scanned(path) == known
    return waveform


MODES = [("CONSTANT", 0.5), ("AVERAGE", 0.5), ("VARIABLE", 0.2), ("VARIABLE", 0.9)]


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000])  # MPEG-2.5, -2 and -1
@pytest.mark.parametrize(("mode", "level"), MODES)
def test_all_frames_of_a_file_without_a_header_are_heard(tmp_path, rate, mode, level):
    content = encode(tmp_path / "whole.mp3", speechlike(5, rate), rate, mode, level)
    whole = load_clip([tmp_path / "whole.mp3"])
    path = written(tmp_path / "stripped.mp3", without_header(content))
    waveform = everything(path)
    assert len(waveform) / SAMPLE_RATE == pytest.approx(seconds_of_frames(content, rate), abs=1e-3)
    # The header also states by how much the encoder has delayed the sound.
    shift = max(range(3000), key=lambda lag: float(waveform[lag : lag + 8000] @ whole[:8000]))
    common = min(len(whole), len(waveform) - shift)
    assert common > 4.9 * SAMPLE_RATE
    assert (
        np.corrcoef(waveform[shift : shift + common], whole[:common])[0, 1] > 0.8
    )  # the delay may be half a sample more


@pytest.mark.parametrize("before", [b"", ID3V2, ID3V2 + ID3V2, APE, ID3V2 + bytes(300)])
@pytest.mark.parametrize("behind", [b"", ID3V1, APE + ID3V1, LYRICS + ID3V1, bytes(5_000), b"made by somebody" * 90])
def test_tags_are_no_sound(tmp_path, before, behind):
    content = encode(tmp_path / "whole.mp3", speechlike(2, 16_000), 16_000)
    plain = everything(written(tmp_path / "plain.mp3", without_header(content)))
    tagged = everything(written(tmp_path / "tagged.mp3", before + without_header(content) + behind))
    np.testing.assert_array_equal(tagged, plain)
    whole = everything(tmp_path / "whole.mp3")
    np.testing.assert_array_equal(everything(written(tmp_path / "both.mp3", before + content + behind)), whole)


@pytest.mark.parametrize("between", [b"", ID3V1, ID3V2, ID3V1 + ID3V2, APE, b"\0" * 700])
@pytest.mark.parametrize("headers", [True, False])
def test_joined_files_are_heard_to_the_last(tmp_path, between, headers):
    parts = [encode(tmp_path / f"{i}.mp3", speechlike(2 + i, 16_000, i), 16_000) for i in range(3)]
    alone = [everything(tmp_path / f"{i}.mp3") for i in range(3)]
    path = tmp_path / "joined.mp3"
    path.write_bytes(between.join(part if headers else without_header(part) for part in parts))
    waveform = everything(path)
    if headers:
        np.testing.assert_array_equal(waveform, np.concatenate(alone))
    else:
        assert len(waveform) / SAMPLE_RATE == sum(seconds_of_frames(part, 16_000) for part in parts)
    np.testing.assert_allclose(load_clip([path], start=3.0, stop=6.0), waveform[48_000:96_000], atol=0.02)


def test_joined_files_of_unlike_rates_and_channels(tmp_path):
    first = encode(tmp_path / "a.mp3", speechlike(2, 16_000), 16_000)
    second = encode(tmp_path / "b.mp3", np.stack([speechlike(3, 44_100)] * 2, axis=1), 44_100)
    for parts in ([first, second], [without_header(first), without_header(second)]):
        waveform = everything(written(tmp_path / "joined.mp3", b"".join(parts)))
        assert len(waveform) / SAMPLE_RATE == pytest.approx(5, abs=0.2)
        assert np.abs(waveform[-SAMPLE_RATE:]).max() > 0.1


@pytest.mark.parametrize("stated", [1, 20, 100_000, 0xFFFF_FFFF])
def test_a_wrong_number_of_frames_is_not_believed(tmp_path, stated):
    content = bytearray(encode(tmp_path / "whole.mp3", speechlike(4, 16_000), 16_000))
    expected = everything(tmp_path / "whole.mp3")
    at = max(content.find(b"Xing", 0, 200), content.find(b"Info", 0, 200))
    content[at + 8 : at + 12] = struct.pack(">I", stated)
    np.testing.assert_array_equal(everything(written(tmp_path / "wrong.mp3", content)), expected)


def test_a_header_without_the_number_of_frames(tmp_path):
    content = bytearray(encode(tmp_path / "whole.mp3", speechlike(4, 16_000), 16_000))
    at = max(content.find(b"Xing", 0, 200), content.find(b"Info", 0, 200))
    content[at + 7] &= 0xFE
    waveform = everything(written(tmp_path / "none.mp3", content))
    assert len(waveform) / SAMPLE_RATE == seconds_of_frames(bytes(content), 16_000)


@pytest.mark.parametrize("missing", [1, 5, 40])
@pytest.mark.parametrize("header", [True, False])
def test_a_file_whose_last_frame_is_not_whole_is_truncated(tmp_path, missing, header):
    content = encode(tmp_path / "whole.mp3", speechlike(3, 16_000), 16_000, "CONSTANT")
    path = written(tmp_path / "cut.mp3", (content if header else without_header(content))[:-missing])
    for read in (load_audio, duration):
        with pytest.raises(AudioError, match="truncated") as caught:
            read(path)
        assert "convert" in caught.value.remedy
    (bad,) = scan([Row(0, path.name, "asr", None, None, None, ())], tmp_path)
    assert "last frame" in bad.reason


def test_a_file_cut_between_frames_is_heard_and_warned_of(tmp_path):
    frames = frames_of(encode(tmp_path / "whole.mp3", speechlike(6, 16_000), 16_000))
    path = written(tmp_path / "cut.mp3", b"".join(frames[: len(frames) // 2]))
    with pytest.warns(AudioWarning, match=r"cut\.mp3.*promises \d+ frames, of which \d+ are there"):
        waveform = load_clip([path], min_seconds=0.0)
    assert 2.8 < len(waveform) / SAMPLE_RATE < 3.2


def test_layer_two(tmp_path):
    """Frames of silence, written by hand: 64 kbit/s, 16 kHz, MPEG-2 layer II, one channel."""
    head = b"\xff\xf5\x88\xc0"
    length = LENGTHS[int.from_bytes(head, "big") >> 9 & 0xFFF]
    frame = head + bytes(length - 4)
    path = written(tmp_path / "silence.mp2", frame * 50)
    assert duration(path) == 50 * 1152 / 16_000
    with pytest.warns(AudioWarning, match="silent"):
        assert load_audio(path).shape == (50 * 1152,)
    path.write_bytes(frame * 50 + frame[:100])
    with pytest.raises(AudioError, match="truncated"):
        load_audio(path)


def test_a_recording_of_a_radio_stream_begins_inside_a_frame(tmp_path):
    content = without_header(encode(tmp_path / "whole.mp3", speechlike(4, 44_100), 44_100))
    path = written(tmp_path / "radio.mp3", content[150:])
    assert everything(path).shape[0] > 3.8 * SAMPLE_RATE


def test_what_lies_between_frames_costs_no_frames(tmp_path):
    frames = frames_of(encode(tmp_path / "whole.mp3", speechlike(4, 16_000), 16_000))[1:]
    plain = everything(written(tmp_path / "plain.mp3", b"".join(frames)))
    half = len(frames) // 2
    junk = b"\xff\xfb\x00\xff\xe3" * 400
    path = written(tmp_path / "junk.mp3", b"".join(frames[:half]) + junk + b"".join(frames[half:]))
    np.testing.assert_array_equal(everything(path), plain)


def test_frames_are_counted_across_blocks(tmp_path):
    frames = frames_of(without_header(encode(tmp_path / "whole.mp3", speechlike(5, 16_000), 16_000)))
    many = BLOCK * 3 // sum(map(len, frames)) + 1
    path = written(tmp_path / "long.mp3", b"".join(frames) * many)
    with path.open("rb") as file:
        found = read_mpeg(file.fileno())
    assert found is not None
    assert [stream.frames for stream in found.streams] == [len(frames) * many]
    late = duration(path) - 1.5
    assert np.abs(load_clip([path], start=late, stop=late + 1.5)).max() > 0.05


@pytest.mark.skipif(not AUDIO_CASES.is_dir(), reason="the shared cases are not here")
@pytest.mark.parametrize("name", ["vbr_no_xing", "cbr_no_xing", "abr_no_xing", "ffmpeg_pipe"])
def test_cases_that_people_met(name):
    assert everything(AUDIO_CASES / f"{name}.mp3").shape[0] > 1.69 * SAMPLE_RATE


@pytest.mark.parametrize("cut", [0, 3])
def test_mp3_inside_a_wav_file(tmp_path, cut):
    frames = without_header(encode(tmp_path / "whole.mp3", speechlike(4, 16_000), 16_000, level=0.2))
    plain = everything(written(tmp_path / "plain.mp3", frames))
    samples = frames[: len(frames) - cut]
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, 16_000, 3_000, 1, 0, 12, 1, 2, 144, 1, 0)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(samples)) + samples
    path = written(tmp_path / "mp3.wav", b"RIFF" + struct.pack("<I", len(body)) + body + b"LIST\4\0\0\0INFO")
    if cut:
        with pytest.raises(AudioError, match="last frame"):
            load_audio(path)
    else:
        np.testing.assert_array_equal(everything(path), plain)


@pytest.mark.parametrize("stated", [7, 100_000])
def test_a_vbri_header_is_no_sound_and_its_number_no_promise(tmp_path, stated):
    frames = frames_of(encode(tmp_path / "whole.mp3", speechlike(4, 16_000), 16_000))[1:]
    plain = everything(written(tmp_path / "plain.mp3", b"".join(frames)))
    head = frames[0][:2] + bytes([0x88]) + frames[0][3:4]  # 64 kbit/s, so that the header has room
    length = LENGTHS[int.from_bytes(head, "big") >> 9 & 0xFFF]
    vbri = b"VBRI" + struct.pack(">HHHII", 1, 0, 75, 100_000, stated)
    first = (head + bytes(32) + vbri).ljust(length, b"\0")
    np.testing.assert_array_equal(everything(written(tmp_path / "vbri.mp3", first + b"".join(frames))), plain)


@pytest.mark.parametrize("tag", [b"", ID3V2, APE], ids=["plain", "id3", "ape"])
@pytest.mark.parametrize("kept", [1.0, 0.5])
def test_free_format_is_refused_by_name(tag, kept, tmp_path):
    """Its frames have any length: libsndfile guesses the file's, and takes a whole one for cut."""
    frames = frames_of(encode(tmp_path / "a.mp3", speechlike(2, 48_000), 48_000, mode="CONSTANT", level=0.9))
    free = b"".join(frame[:2] + bytes([frame[2] & 0x0F]) + frame[3:] for frame in frames)
    path = tmp_path / "free.mp3"
    path.write_bytes(tag + free[: int(len(free) * kept)])
    for read in (load_audio, duration):
        with pytest.raises(AudioError, match=r"free\.mp3: it is an MP3 of free format.* Convert it to wav or flac"):
            read(path)
    (bad,) = scan([Row(0, path.name, "asr", None, None, None, ())], path.parent)
    assert "free format" in bad.reason


def test_text_in_utf_16_is_no_free_format(tmp_path):
    path = tmp_path / "a.mp3"
    path.write_bytes(b"\xff\xfe" + "\rnothing here\r".encode("utf-16-le") * 900)
    with pytest.raises(AudioError, match="not audio that can be decoded"):
        load_audio(path)
