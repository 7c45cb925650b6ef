"""What libsndfile does not read, decoded by the `ffmpeg` program where it is installed.

It runs as a process of its own, once a read, and sends the first channel at its own rate through a pipe. It opens no
other file and no address, whatever the content says, and the file's name never reaches it.
"""

import os
import re
import select
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np

PROGRAM = "ffmpeg"
STALL_SECONDS = 120.0  # without a sample, after which it is given up
COUNTED_SECONDS = 60.0  # that are decoded of a file to know its length; few clips are longer, and few models hear more
MOST_MEMORY = 1 << 30  # bytes that it may take in one piece
BLOCK = 1 << 20
HEAD = struct.Struct(">4sIIIII")  # of an AU file: magic, where the samples begin, their bytes, encoding, rate, channels
MESSAGE = re.compile(r"^(?:\[[^\]]+ @ [^\]]+\] )?\[(error|fatal|panic)\] (.*)")
DURATION = re.compile(r"Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)")
GUESS = "Estimating duration from bitrate"
DOUBTFUL = "misdetection possible"
CUT = re.compile(
    r"partial file|truncat|ended prematurely|incomplete frame|packet size too small|moov atom not found|end of file",
    re.IGNORECASE,
)


class FfmpegError(Exception):
    """It could not decode the file; the text is its own reason."""


@dataclass
class Decoded:
    """A stream of sound on its way.

    Attributes:
        rate: Hz.
        seconds: length that the container states; None where it states none or ffmpeg only estimates it.
        problems: what ffmpeg has complained of, complete when all blocks are read.
    """

    rate: int
    blocks: Iterator[np.ndarray[Any, Any]]
    seconds: float | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def cut(self) -> str | None:
        """What says that the file ends too early, if anything does."""
        return next((line for line in self.problems if CUT.search(line)), None)


def available() -> bool:
    """Whether the program is installed."""
    return shutil.which(PROGRAM) is not None


@contextmanager
def decoding(descriptor: int, *, start: float = 0.0, seconds: float | None = None) -> Generator[Decoded]:
    """The first sound of an open file, decoded as far as it is read.

    Args:
        descriptor: the file, at any position.
        start: seconds to leave out.
        seconds: how much to decode; None for all of it.

    Yields:
        Blocks of float32 `[samples]`, first channel, at the file's own rate.

    Raises:
        FfmpegError: there is no sound that it decodes, or it stalls.
        OSError: it cannot be started.
    """
    command = [
        *(shutil.which(PROGRAM) or PROGRAM, "-hide_banner", "-nostdin", "-nostats", "-loglevel", "level+info"),
        *("-max_alloc", str(MOST_MEMORY), "-threads", "1", "-protocol_whitelist", "file"),
        *(() if not start else ("-ss", f"{start:.6f}")),
        *("-i", "file:/dev/stdin", "-map", "0:a:0", "-vn", "-sn", "-dn"),
        *(() if seconds is None else ("-t", f"{seconds:.6f}")),
        *("-af", "pan=mono|c0=c0", "-c:a", "pcm_f32be", "-map_metadata", "-1", "-f", "au", "pipe:1"),
    ]
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, stdin=descriptor, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        assert process.stdout is not None
        try:
            head = _read(process.stdout, HEAD.size)
            if len(head) < HEAD.size:
                process.wait(STALL_SECONDS)
                raise FfmpegError(_reason(log))
            _, offset, _, _, rate, _ = HEAD.unpack(head)
            _read(process.stdout, offset - HEAD.size)
            lines = _lines(log)
            if any(DOUBTFUL in line for line in lines):
                raise FfmpegError("its content is no known format")
            sound = Decoded(rate, iter(()), _duration(lines))
            sound.blocks = _blocks(process, log, sound.problems)
            yield sound
        finally:
            process.kill()


def _blocks(process: "subprocess.Popen[bytes]", log: IO[bytes], problems: list[str]) -> Iterator[np.ndarray[Any, Any]]:
    assert process.stdout is not None
    count = 0
    while data := _read(process.stdout, BLOCK):
        samples = np.frombuffer(data[: len(data) // 4 * 4], dtype=">f4").astype(np.float32)
        count += len(samples)
        yield samples
    process.wait(STALL_SECONDS)
    problems += _problems(log)
    if process.returncode and not count:
        raise FfmpegError(_reason(log))
    if process.returncode and not problems:
        problems.append(f"ffmpeg ended with status {process.returncode}")


def _read(pipe: IO[bytes], count: int) -> bytes:
    """`count` bytes, fewer at the end."""
    data = b""
    while len(data) < count:
        ready, _, _ = select.select([pipe], [], [], STALL_SECONDS)
        if not ready:
            raise FfmpegError(f"no sound came of it in {STALL_SECONDS:g} s")
        block = os.read(pipe.fileno(), count - len(data))
        if not block:
            break
        data += block
    return data


def _lines(log: IO[bytes]) -> list[str]:
    return os.pread(log.fileno(), BLOCK, 0).decode("utf-8", "replace").splitlines()


def _problems(log: IO[bytes]) -> list[str]:
    matches = (MESSAGE.match(line) for line in _lines(log))
    return [match[2].replace("/dev/stdin", "the file").removeprefix("file:") for match in matches if match]


def _reason(log: IO[bytes]) -> str:
    """Why nothing came: what it complained of."""
    problems = _problems(log)
    if not problems or any("matches no streams" in line for line in problems):
        return "it holds no sound"
    reason = next((line for line in problems if CUT.search(line)), problems[0])
    return reason.strip().rstrip(".")


def _duration(lines: list[str]) -> float | None:
    """Seconds that the container states; None where that is ffmpeg's guess."""
    if any(GUESS in line for line in lines):
        return None
    for line in lines:
        if "Output #0" in line:
            break
        if match := DURATION.search(line):
            return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])
    return None


@dataclass(frozen=True, slots=True)
class Measure:
    """What a file holds.

    Attributes:
        rate: Hz.
        frames: samples of each channel, counted; None where it is longer than was counted.
        seconds: length that the container states, if it does.
        problem: the first thing that ffmpeg complained of, or nothing.
        cut: its complaint that the file ends too early, or nothing.
    """

    rate: int
    frames: int | None
    seconds: float | None
    problem: str = ""
    cut: str = ""


def measure(descriptor: int, seconds: float | None = COUNTED_SECONDS) -> Measure | FfmpegError:
    """Decode an open file and count, up to so many seconds; None for all of it.

    Returns:
        What it holds, or why it cannot be decoded: a result like another, which can be remembered.

    Raises:
        OSError: as `decoding`.
    """
    try:
        return _count(descriptor, seconds)
    except FfmpegError as error:
        return error


def _count(descriptor: int, seconds: float | None) -> Measure:
    with decoding(descriptor, seconds=seconds) as sound:
        frames = sum(len(block) for block in sound.blocks)
        longer = seconds is not None and frames >= int(seconds * sound.rate)
        problem = sound.problems[0] if sound.problems else ""
        return Measure(sound.rate, None if longer else frames, sound.seconds, problem, sound.cut or "")
