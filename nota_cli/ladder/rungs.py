"""The rungs of a ladder: which artifacts of a system are compared."""

from collections.abc import Sequence
from dataclasses import dataclass

from nota_cli.errors import UsageError

RUNTIMES = ("torch", "onnx", "gguf")
ENCODER_BITS, DECODER_BITS = (32, 16, 8, 4), (32, 16, 8, 4)
GGUF_FORMATS = {32: "f16", 16: "f16", 8: "q8_0", 4: "q4_k_m"}
"""Bits of a decoder to its format in llama.cpp, which has no 32 bits here: `f16` stands for them."""


@dataclass(frozen=True)
class Rung:
    """One artifact: the source as it stands (runtime `torch`, no bits), or an export of it.

    Attributes:
        runtime: one of `RUNTIMES`.
        encoder_bits: per weight of the encoders.
        decoder_bits: per weight of the decoder; the token table of a graph has as many, but 8 beside 4.
    """

    runtime: str
    encoder_bits: int | None = None
    decoder_bits: int | None = None

    @property
    def decoder_format(self) -> str | None:
        """llama.cpp's name of the decoder's format, in that runtime."""
        return GGUF_FORMATS[self.decoder_bits or 32] if self.runtime == "gguf" else None

    @property
    def name(self) -> str:
        """Of its row and its folder: `torch`, `onnx-e8-d4`, `gguf-e8-q8_0`."""
        if self.encoder_bits is None:
            return self.runtime
        return f"{self.runtime}-e{self.encoder_bits}-{self.decoder_format or f'd{self.decoder_bits}'}"

    def export_options(self) -> list[str]:
        """What `nota export` is given for it."""
        bits = ["--encoder-bits", str(self.encoder_bits)]
        if self.decoder_format is not None:
            return ["--to", "gguf", *bits, "--decoder-format", self.decoder_format]
        table = max(8, self.decoder_bits or 32)
        return [*bits, "--decoder-bits", str(self.decoder_bits), "--embedding-bits", str(table)]


REFERENCE = Rung("torch")


def rungs_of(runtimes: Sequence[str], encoder_bits: Sequence[int], decoder_bits: Sequence[int]) -> list[Rung]:
    """The reference first, then every combination of the others, from many bits to few.

    Args:
        runtimes: of `RUNTIMES`; the reference is there whether it is named or not.
        encoder_bits: of `ENCODER_BITS`.
        decoder_bits: of `DECODER_BITS`.
    """
    exports = [
        Rung(runtime, encoder, decoder)
        for runtime in RUNTIMES[1:]
        if runtime in runtimes
        for encoder in sorted(encoder_bits, reverse=True)
        for decoder in sorted(decoder_bits, reverse=True)
    ]
    return list({rung.name: rung for rung in [REFERENCE, *exports]}.values())


def parse_bits(text: str, allowed: Sequence[int], option: str) -> list[int]:
    """Numbers of bits out of `32,8`, each once.

    Raises:
        UsageError: something else stands there.
    """
    return [int(word) for word in _words(text, [str(bits) for bits in allowed], option)]


def parse_runtimes(text: str) -> list[str]:
    """Runtimes out of `torch,onnx`, each once.

    Raises:
        UsageError: something else stands there.
    """
    return _words(text, RUNTIMES, "--runtimes")


def _words(text: str, allowed: Sequence[str], option: str) -> list[str]:
    words = list(dict.fromkeys(word.strip().lower() for word in text.split(",") if word.strip()))
    wrong = [word for word in words if word not in allowed]
    if wrong or not words:
        what = f"{', '.join(wrong)} is none of them" if wrong else "there is nothing in it"
        raise UsageError(f"{option} {text!r}: {what}; give any of {', '.join(allowed)}, with commas between them")
    return words
