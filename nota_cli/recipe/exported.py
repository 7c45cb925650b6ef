"""Exports: the recipe that their folder holds, and the manifest of what lies in it."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nota_cli.errors import CheckpointError, listing
from nota_cli.files import file_sha256, refuse_lfs_pointer
from nota_cli.parsing import decode, parse_json
from nota_cli.recipe.schema import BaseRecipe
from nota_cli.recipe.section import Section

FAMILY = "onnx"
MANIFEST = "manifest.json"
FORMAT = 1  # of the folder; a reader refuses any other
GGUF_FILE = "decoder.gguf"
HASHED = 64 * 2**20  # bytes up to which a file is held against its hash before it is used


class ExportRecipe(BaseRecipe):
    """A system as `nota export` wrote it: how audio is read, prompts and search; the graphs lie in `checkpoint`."""

    checkpoint: str | None = "."


class FileEntry(Section):
    """A file of an export: its size in bytes and its SHA-256."""

    bytes: int
    sha256: str


class Front(Section):
    """What the encoders see."""

    mel_bins: int
    audio: str | None
    """Name of the audio encoder's spectrogram (`nota_cli.features.arrays.FRONT_ENDS`)."""
    longest_bank: int
    """Frames of the audio encoder's spectrogram that its graph takes at most."""


class Windows(Section):
    """The connector's windows, in states."""

    window: int
    stride: int
    keeps_rest: bool = False
    """Whether the last, part-filled window counts in clips that were padded to 30 s, too."""
    summary: int = 0
    """Embeddings before those of the windows that tell of the whole clip."""


class DecoderEntry(Section):
    """What decoding needs to know of the decoder's graph and its tokenizer."""

    layers: int
    heads: int
    head_width: int
    width: int
    sliding_window: int | None
    bos_id: int | None
    end_ids: list[int]
    pad_id: int
    end_symbol: str
    cleans_up_spaces: bool
    token_scale: float = 1.0
    """What the rows of a token table are multiplied by that is packed as the graph's weights are."""


class TableEntry(Section):
    """Where the token table lies in a GGUF file: rows of the same size, one after the other."""

    type: str
    """ggml's name of how numbers are stored, such as F16 or Q6_K."""
    offset: int
    rows: int
    row_bytes: int


class GgufEntry(Section):
    """A decoder that llama.cpp runs."""

    format: str
    architecture: str
    tokenizer: str
    """llama.cpp's kind of the tokenizer in the file; `none` where it has no such kind."""
    token_scale: float
    """What the decoder multiplies the rows of its token table by."""
    input_scale: float
    """What llama.cpp's graph multiplies embeddings by that are fed to it; they are divided by it first."""
    table: TableEntry


class PartEntry(Section):
    """A part's parameters, and its bytes by type of number."""

    name: str
    parameters: int
    by_type: dict[str, int]


class Manifest(Section):
    """`manifest.json` of an export."""

    format: int
    nota: str
    opset: int
    source: dict[str, str]
    bits: dict[str, int]
    front: Front
    windows: Windows
    decoder: DecoderEntry
    parts: list[PartEntry]
    files: dict[str, FileEntry]
    parity: dict[str, Any] = {}
    gguf: GgufEntry | None = None
    """Of a folder whose decoder is a GGUF file in the place of a graph."""


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an export, its files held against it.

    Raises:
        CheckpointError: it is missing, damaged or of another version of the format; or a file that it lists is missing
            or not the one that was exported.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{folder}: no export here ({MANIFEST} is missing). Write one with `nota export`.")
    refuse_lfs_pointer(path, error=CheckpointError)
    try:
        values = parse_json(decode(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a manifest: {error}. Export again.") from error
    version = values.get("format") if isinstance(values, dict) else None
    if version != FORMAT:
        raise CheckpointError(f"{path}: format {version!r}, and this nota reads {FORMAT}. Export again with it.")
    try:
        manifest = Manifest.model_validate(values)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise CheckpointError(f"{path}: not a manifest. Export again.\n{listing(wrong)}") from error
    for name, entry in manifest.files.items():
        check_file(folder / name, entry)
    return manifest


def check_file(file: Path, entry: FileEntry, *, whole: bool = False) -> None:
    """Hold a file of an export against its entry; one of more than 64 MiB by its size alone, unless `whole`.

    Raises:
        CheckpointError: it is missing, or another one.
    """
    try:
        size = file.stat().st_size
        same = size == entry.bytes and (not (whole or size <= HASHED) or file_sha256(file) == entry.sha256)
    except OSError as error:
        raise CheckpointError(f"{file}: missing from the export ({error.strerror}). Copy the whole folder.") from error
    if not same:
        refuse_lfs_pointer(file, error=CheckpointError)
        raise CheckpointError(
            f"{file}: {size} bytes that are not those exported ({entry.bytes} bytes, by {MANIFEST}). It is cut off or "
            "damaged: copy the folder or export again."
        )
