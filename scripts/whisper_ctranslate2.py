"""Whisper from CTranslate2's `model.bin` to a folder as transformers reads it.

The file, little-endian: version (uint32), specification's name, revision (uint32), number of variables (uint32). Each
variable: name, rank (uint8), sizes (uint32 each), type (uint8), bytes (uint32), data. Then aliases: number (uint32),
and each as two names. A name is its length (uint16, the closing NUL counted) and its characters.
"""

import json
import re
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nota_cli.errors import CheckpointError, listing

TYPES = ("<f4", "i1", "<i2", "<i4", "<f2")  # by CTranslate2's number
TIMESTAMPS = 1501  # <|0.00|> to <|30.00|> in steps of 0.02 s, the last tokens of every Whisper

Arrays = dict[str, np.ndarray]


def read_model(path: Path) -> tuple[str, Arrays]:
    """The specification's name and every variable of a CTranslate2 `model.bin`, aliases included.

    Raises:
        CheckpointError: the file is cut, or no such file at all.
    """
    try:
        with path.open("rb") as file:
            _number(file, "I")  # the version of the container
            spec = _name(file)
            _number(file, "I")  # the revision of the specification
            arrays = dict(_variable(file) for _ in range(_number(file, "I")))
            for _ in range(_number(file, "I")):
                alias = _name(file)
                arrays[alias] = arrays[_name(file)]
    except (struct.error, ValueError, IndexError, KeyError) as error:
        raise CheckpointError(f"{path}: not a whole CTranslate2 model ({error}). Download it again.") from error
    return spec, arrays


def _number(file: BinaryIO, kind: str) -> int:
    return int(struct.unpack(f"<{kind}", file.read(struct.calcsize(kind)))[0])


def _name(file: BinaryIO) -> str:
    size = _number(file, "H")
    name = file.read(size)
    if len(name) != size or not name.endswith(b"\0"):
        raise ValueError("a name is cut")
    return name[:-1].decode("utf-8")


def _variable(file: BinaryIO) -> tuple[str, np.ndarray]:
    name = _name(file)
    shape = [_number(file, "I") for _ in range(_number(file, "B"))]
    kind, size = TYPES[_number(file, "B")], _number(file, "I")
    return name, np.frombuffer(file.read(size), dtype=kind).reshape(shape)


def transformers_names(arrays: Arrays) -> Arrays:
    """CTranslate2's variables under the names of `WhisperForConditionalGeneration`, in float32.

    CTranslate2 stacks the projections that read one input: query, key and value of self-attention; key and value of
    cross-attention. Whisper's keys have no bias, so that part of a stacked bias is zero.
    """
    named: Arrays = {}

    def put(source: str, *targets: str) -> None:
        for part in ("weight", "bias"):
            if f"{source}/{part}" not in arrays:
                continue
            pieces = np.split(arrays[f"{source}/{part}"].astype(np.float32), len(targets))
            for target, piece in zip(targets, pieces, strict=True):
                if part == "bias" and target.endswith("k_proj"):
                    if piece.any():
                        raise CheckpointError(f"{source}/bias: the keys have a bias, so this is no Whisper model.")
                    continue
                named[f"model.{target}.{part}"] = np.ascontiguousarray(piece)

    def norm(source: str, target: str) -> None:
        named[f"model.{target}.weight"] = arrays[f"{source}/gamma"].astype(np.float32)
        named[f"model.{target}.bias"] = arrays[f"{source}/beta"].astype(np.float32)

    put("encoder/conv1", "encoder.conv1")
    put("encoder/conv2", "encoder.conv2")
    put("decoder/embeddings", "decoder.embed_tokens")
    for side in ("encoder", "decoder"):
        positions = arrays[f"{side}/position_encodings/encodings"].astype(np.float32)
        named[f"model.{side}.embed_positions.weight"] = positions
        norm(f"{side}/layer_norm", f"{side}.layer_norm")
        for number in range(count_layers(arrays, side)):
            source, target = f"{side}/layer_{number}", f"{side}.layers.{number}"
            attention = f"{target}.self_attn"
            put(f"{source}/self_attention/linear_0", *(f"{attention}.{kind}_proj" for kind in "qkv"))
            put(f"{source}/self_attention/linear_1", f"{attention}.out_proj")
            norm(f"{source}/self_attention/layer_norm", f"{target}.self_attn_layer_norm")
            if side == "decoder":
                put(f"{source}/attention/linear_0", f"{target}.encoder_attn.q_proj")
                put(f"{source}/attention/linear_1", *(f"{target}.encoder_attn.{kind}_proj" for kind in "kv"))
                put(f"{source}/attention/linear_2", f"{target}.encoder_attn.out_proj")
                norm(f"{source}/attention/layer_norm", f"{target}.encoder_attn_layer_norm")
            put(f"{source}/ffn/linear_0", f"{target}.fc1")
            put(f"{source}/ffn/linear_1", f"{target}.fc2")
            norm(f"{source}/ffn/layer_norm", f"{target}.final_layer_norm")
    return named


def count_layers(arrays: Arrays, side: str) -> int:
    """How many layers the encoder or the decoder has."""
    return len({match[1] for name in arrays if (match := re.match(rf"{side}/layer_(\d+)/", name))})


def convert(files: dict[str, Path], folder: Path) -> None:
    """Fill `folder` with config, generation config, feature extractor, tokenizer and weights.

    Args:
        files: `config.json` and `tokenizer.json` of the CTranslate2 folder, and `model.bin` or its parts
            `model.bin.part1`, `model.bin.part2` and so on.
        folder: where to write.

    Raises:
        CheckpointError: the weights are not exactly those of a Whisper model.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    spec, arrays = read_model(_joined(files))
    if spec != "WhisperSpec":
        raise CheckpointError(f"this CTranslate2 model is a {spec}, not a Whisper model.")
    weights = {name: torch.from_numpy(array.copy()) for name, array in transformers_names(arrays).items()}
    tokenizer = whisper_tokenizer(files["tokenizer.json"])
    ids = {
        token: number for number, token in ((i, tokenizer.id_to_token(i)) for i in range(tokenizer.get_vocab_size()))
    }
    ctranslate2 = json.loads(files["config.json"].read_text(encoding="utf-8"))
    suppress = ctranslate2["suppress_ids"], ctranslate2["suppress_ids_begin"]
    special = _special_ids(ids)

    n_mels, width = arrays["encoder/conv1/weight"].shape[1], arrays["encoder/conv1/weight"].shape[0]
    config = WhisperConfig(
        vocab_size=len(weights["model.decoder.embed_tokens.weight"]),
        num_mel_bins=n_mels,
        d_model=width,
        encoder_layers=count_layers(arrays, "encoder"),
        decoder_layers=count_layers(arrays, "decoder"),
        encoder_attention_heads=int(arrays["encoder/num_heads"]),
        decoder_attention_heads=int(arrays["decoder/num_heads"]),
        encoder_ffn_dim=len(weights["model.encoder.layers.0.fc1.weight"]),
        decoder_ffn_dim=len(weights["model.decoder.layers.0.fc1.weight"]),
        max_source_positions=len(weights["model.encoder.embed_positions.weight"]),
        max_target_positions=len(weights["model.decoder.embed_positions.weight"]),
        suppress_tokens=suppress[0],
        begin_suppress_tokens=suppress[1],
        architectures=["WhisperForConditionalGeneration"],
        dtype="float32",
        **special,
    )
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config)
    _check(weights, model)
    if tokenizer.get_vocab_size() != config.vocab_size:
        raise CheckpointError(f"{tokenizer.get_vocab_size():,} tokens, and weights for {config.vocab_size:,}.")

    multilingual = "<|transcribe|>" in ids and config.vocab_size > 51_864  # tiny.en and its like have one language
    generation = GenerationConfig(
        **special,
        suppress_tokens=suppress[0],
        begin_suppress_tokens=suppress[1],
        alignment_heads=ctranslate2["alignment_heads"],
        max_length=config.max_target_positions,
        max_initial_timestamp_index=50,
        no_timestamps_token_id=ids["<|notimestamps|>"],
        prev_sot_token_id=ids["<|startofprev|>"],
        return_timestamps=False,
        is_multilingual=multilingual,
    )
    if multilingual:
        first, last = ids["<|startoftranscript|>"] + 1, ids["<|translate|>"]
        generation.lang_to_id = {tokenizer.id_to_token(number): number for number in range(first, last)}
        generation.task_to_id = {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")}
    config.save_pretrained(folder)
    generation.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=n_mels).save_pretrained(folder)
    _save_tokenizer(tokenizer, folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def whisper_tokenizer(path: Path) -> Any:
    """The file's tokenizer, with the timestamps that CTranslate2's converters leave out, as `tokenizers.Tokenizer`."""
    from tokenizers import AddedToken, Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    names = [f"<|{number * 0.02:.2f}|>" for number in range(TIMESTAMPS)]
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in names])
    return tokenizer


def _joined(files: dict[str, Path]) -> Path:
    """`model.bin`, put together from its parts where it came in parts."""
    if "model.bin" in files:
        return files["model.bin"]
    parts = sorted(
        (path for name, path in files.items() if name.startswith("model.bin.part")), key=lambda path: path.name
    )
    target = parts[0].with_name("model.bin")
    with target.open("wb") as file:
        for path in parts:
            file.write(path.read_bytes())
    return target


def _special_ids(ids: dict[str, int]) -> dict[str, int]:
    end = ids["<|endoftext|>"]
    return {
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": ids["<|startoftranscript|>"],
    }


def _check(weights: dict[str, Any], model: Any) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name != "proj_out.weight"}
    here = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    problems = [
        f"{name}: {here.get(name, 'missing')}, wanted {wanted.get(name, 'nothing')}"
        for name in sorted(wanted.keys() | here.keys())
        if here.get(name) != wanted.get(name)
    ]
    if problems:
        raise CheckpointError(f"the converted weights do not fit transformers' Whisper:\n{listing(problems)}")


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    from transformers import WhisperTokenizer

    tokenizer.save(str(folder / "tokenizer.json"))
    end = "<|endoftext|>"
    saved = {
        "tokenizer_class": "WhisperTokenizer",
        "bos_token": end,
        "eos_token": end,
        "unk_token": end,
        "pad_token": end,
        "add_prefix_space": False,
        "errors": "replace",
        "model_max_length": 1024,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(saved, indent=2) + "\n", encoding="utf-8")
    loaded = WhisperTokenizer.from_pretrained(folder)
    text = " Hello, world: naïve café, 17352 dogs!"
    ours, theirs = (
        loaded(text, add_special_tokens=False).input_ids,
        tokenizer.encode(text, add_special_tokens=False).ids,
    )
    if ours != theirs or loaded.decode(ours) != text:
        raise CheckpointError(f"transformers reads this tokenizer otherwise: {ours} for {theirs}.")
