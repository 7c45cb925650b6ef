"""Decoders as GGUF: what is written is read back with the package `gguf`, and where llama.cpp is installed it runs."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.decoders import make_decoder
from helpers.paths import REPOSITORY
from helpers.vocabularies import byte_fallback, byte_level, unigram
from nota_cli.errors import RecipeError, UsageError
from nota_cli.export.gguf import BITS, interleave, write_decoder
from nota_cli.recipe.exported import GGUF_FILE

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")

SYSTEMS = REPOSITORY / "tests" / "golden" / "systems"


def written(folder: Path, family: str, kind: str, tokenizer: object = None, **changes: object):
    """A small decoder, its file's entry, and a reader of it."""
    decoder = make_decoder(family, **changes)
    backend = byte_level() if tokenizer is None else tokenizer
    ids = {f"{role}_token_id": backend.token_to_id(f"<{role}>") for role in ("bos", "eos", "pad")}
    decoder.tokenizer = SimpleNamespace(backend_tokenizer=backend, unk_token_id=None, **ids)
    entry = write_decoder(SimpleNamespace(decoder=decoder, recipe=SimpleNamespace(name="small")), folder, kind)
    return decoder, entry, gguf.GGUFReader(folder / GGUF_FILE)


def numbers(reader: object, name: str) -> np.ndarray:
    tensor = next(each for each in reader.tensors if each.name == name)
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type)


def values(reader: object, key: str) -> object:
    return reader.fields[key].contents()


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma2", "gemma3_text"])
@pytest.mark.parametrize(("kind", "error"), [("f16", 1e-3), ("q8_0", 1e-2)])
def test_what_is_written_is_read_back(family: str, kind: str, error: float, tmp_path: Path) -> None:
    decoder, entry, reader = written(tmp_path, family, kind, vocab_size=430)
    own = dict(decoder.base.named_parameters())
    for hf, name in (("embed_tokens", "token_embd"), ("layers.1.mlp.down_proj", "blk.1.ffn_down")):
        expected = own[f"model.{hf}.weight"].detach().numpy()
        difference = numbers(reader, f"{name}.weight") - expected
        assert np.linalg.norm(difference) < error * np.linalg.norm(expected)
    gemma = family.startswith("gemma")
    norm = own["model.layers.0.input_layernorm.weight"].detach().numpy() + (1.0 if gemma else 0.0)
    assert np.array_equal(numbers(reader, "blk.0.attn_norm.weight").ravel(), norm.astype(np.float32))
    architecture = values(reader, "general.architecture")
    assert (architecture, entry.architecture) == (family.removesuffix("_text"),) * 2
    assert values(reader, f"{architecture}.block_count") == decoder.base.config.num_hidden_layers
    assert (entry.token_scale, entry.input_scale) == (8.0 if gemma else 1.0, 8.0 if family == "gemma2" else 1.0)
    if gemma:
        kinds = [each == "sliding_attention" for each in decoder.base.config.layer_types]
        assert values(reader, f"{architecture}.attention.sliding_window_pattern") == kinds


def test_the_token_table_is_read_where_it_lies(tmp_path: Path) -> None:
    from nota_cli.generation.runtimes.llama_cpp import GgufTable

    decoder, entry, _ = written(tmp_path, "gemma3_text", "f16", vocab_size=430)
    ids = np.array([[3, 0, 429]])
    rows = GgufTable(tmp_path, entry)(ids)
    expected = decoder.embed(torch.from_numpy(ids)).detach().numpy()
    assert rows.shape == (1, 3, 64)
    assert np.abs(rows - expected).max() < 1e-3 * np.abs(expected).max()


def test_interleaved_rotation_gives_the_scores_of_halves() -> None:
    """Queries and keys turned in neighboring pairs meet as those that transformers turns in halves."""
    rng = np.random.default_rng(0)
    heads, width, inner = 2, 8, 5
    states = rng.standard_normal((inner, 2))
    projections = rng.standard_normal((2, heads * width, inner))
    angles = np.outer([3.0, 7.0], 10.0 ** -np.arange(width // 2))

    def turned(vector: np.ndarray, angle: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        out = np.empty_like(vector)
        out[:, first] = vector[:, first] * np.cos(angle) - vector[:, second] * np.sin(angle)
        out[:, second] = vector[:, first] * np.sin(angle) + vector[:, second] * np.cos(angle)
        return out

    half, even = np.arange(width // 2), np.arange(0, width, 2)
    scores = []
    for weights, pairs in (
        (projections, (half, half + width // 2)),
        ([interleave(each, width) for each in projections], (even, even + 1)),
    ):
        query, key = (
            turned((weight @ states[:, place]).reshape(heads, width), angles[place], *pairs)
            for place, weight in enumerate(weights)
        )
        scores.append((query * key).sum(axis=1))
    assert np.allclose(scores[0], scores[1])


def test_a_stretched_rotary_embedding_becomes_factors(tmp_path: Path) -> None:
    llama3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0}
    llama3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    heads = {"head_dim": 16, "num_attention_heads": 4, "num_key_value_heads": 2}
    decoder, _, reader = written(tmp_path, "llama", "f16", vocab_size=430, rope_parameters=llama3, **heads)
    plain = 10000.0 ** (-np.arange(0, 16, 2) / 16)
    actual = decoder.base.model.rotary_emb.inv_freq.numpy()
    factors = numbers(reader, "rope_freqs.weight").ravel()
    assert np.allclose(plain / factors, actual, rtol=1e-5)
    assert factors.max() == pytest.approx(8.0)


@pytest.mark.parametrize(
    ("make", "kind"),
    [(byte_level, "none"), (byte_fallback, "llama"), (unigram, "none")],
    ids=["bytes", "pieces", "unigram"],
)
def test_a_tokenizer_goes_in_where_llama_cpp_has_its_kind(make: Callable, kind: str, tmp_path: Path) -> None:
    """The byte-level one of the tests cuts words in a way of its own, for which llama.cpp has no name."""
    tokenizer = make()
    size = tokenizer.get_vocab_size() + 3
    _, entry, reader = written(tmp_path, "llama", "f16", tokenizer, vocab_size=size)
    assert entry.tokenizer == values(reader, "tokenizer.ggml.model") == kind
    assert values(reader, "llama.vocab_size") == size
    if kind == "llama":
        tokens, types = values(reader, "tokenizer.ggml.tokens"), values(reader, "tokenizer.ggml.token_type")
        assert len(tokens) == size
        assert types[tokenizer.token_to_id("<0x41>")] == 6
        assert types[tokenizer.token_to_id("<bos>")] == 3
        assert types[-3:] == [5, 5, 5]


def test_qwens_tokenizer_goes_in_with_its_merges(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(SYSTEMS / "nlp07" / "llm" / "tokenizer.json"))
    _, entry, reader = written(tmp_path, "qwen2", "f16", tokenizer, vocab_size=226)
    assert entry.tokenizer == "gpt2"
    assert values(reader, "tokenizer.ggml.pre") == "qwen2"
    assert len(values(reader, "tokenizer.ggml.merges")) == 173


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("phi", {}, "its decoder is phi"),
        ("gemma2", {"query_pre_attn_scalar": 64}, "query_pre_attn_scalar is 64"),
        ("gemma3_text", {"attn_logit_softcapping": 30.0}, "has no attn_logit_softcapping"),
        ("llama", {"hidden_act": "relu"}, "its activation is relu"),
        ("mistral", {"sliding_window": 64}, "its decoder is mistral"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    family: str, changes: dict[str, object], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=reason):
        written(tmp_path, family, "f16", vocab_size=430, **changes)
    assert not (tmp_path / GGUF_FILE).exists()


def test_options_of_the_other_format_are_wrong_use(
    tmp_path: Path, nota: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert nota("export", "tiny", "--out", tmp_path / "out", "--decoder-format", "f16") == 2
    assert "--decoder-format is for --to gguf" in " ".join(capsys.readouterr().err.split())
    assert nota("export", "tiny", "--out", tmp_path / "out", "--to", "gguf", "--decoder-bits", "4") == 2
    assert "GGUF takes --decoder-format" in " ".join(capsys.readouterr().err.split())
    assert nota("export", "tiny", "--out", tmp_path / "out", "--integer-encoders") == 2
    assert "--integer-encoders is for --encoder-bits 8" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def texts(path: Path) -> list[str]:
    with path.open(newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


@pytest.mark.gguf
@pytest.mark.parametrize("team", ["cv16", "cv03", "nlp07"])
def test_llama_cpp_gives_a_teams_texts(
    team: str, tmp_path: Path, golden_recipe: Callable[..., Path], nota: Callable[..., int]
) -> None:
    """Llama, Gemma 2 and Qwen 2 at float16, greedy and with beams, one by one and in a batch."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (the extra gguf)")
    folder, out = SYSTEMS / team, tmp_path / "export"
    data = ["--annotation", folder / "manifest.json", "--audio-root", folder / "audio"]
    assert nota("export", golden_recipe(folder), "--out", out, "--to", "gguf", "--decoder-format", "f16", *data) == 0
    assert not (out / "decoder.onnx").exists()
    rows = json.loads((folder / "expected.json").read_text())["rows"]
    for beams, batch_size in ((1, 1), (1, 6), (4, 6)):
        csv_path = tmp_path / f"{beams}-{batch_size}.csv"
        search = ["--set", f"generate.beams={beams}", "--batch-size", batch_size, "--out", csv_path]
        assert nota("infer", "--recipe", out, *data, *search) == 0
        assert texts(csv_path) == [row[f"text_beam{beams}"].strip() for row in rows]


@pytest.mark.gguf
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma2", "gemma3_text"])
@pytest.mark.parametrize("kind", BITS)
def test_llama_cpp_computes_torchs_logits(family: str, kind: str, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (the extra gguf)")
    from nota_cli.export.parity import ROUNDED
    from nota_cli.generation.runtimes.llama_cpp import LlamaDecoder, LlamaModel
    from nota_cli.recipe.exported import FileEntry

    heads = {"head_dim": 16, "num_attention_heads": 4, "num_key_value_heads": 2}
    decoder, entry, _ = written(tmp_path, family, kind, vocab_size=430, **heads)
    sizes = SimpleNamespace(layers=decoder.base.config.num_hidden_layers, heads=2, head_width=16)
    files = {GGUF_FILE: FileEntry(bytes=0, sha256="")}
    model = LlamaModel(tmp_path, SimpleNamespace(gguf=entry, decoder=sizes, files=files))
    prompt = torch.randn(2, 7, 64, generator=torch.Generator().manual_seed(0)) * decoder.audio_scale
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[0, :3] = 0
    ours = LlamaDecoder(model, 2, 3)
    logits = ours.prefill(prompt.numpy(), mask.numpy())
    tokens = np.array([5, 9])
    following = ours.step(tokens)
    with torch.inference_mode():
        both = torch.cat([prompt, decoder.embed(torch.from_numpy(tokens)[:, None])], dim=1)
        whole = torch.cat([mask, mask.new_ones(2, 1)], dim=1)
        positions = (whole.cumsum(1) - 1).clamp(min=0)
        theirs = decoder.model(inputs_embeds=both, attention_mask=whole, position_ids=positions).logits[:, -2:].numpy()
    for mine, other in ((logits, theirs[:, 0]), (following, theirs[:, 1])):
        assert np.linalg.norm(mine - other) <= ROUNDED[BITS[kind]] * np.linalg.norm(other)


@pytest.mark.gguf
def test_more_sequences_than_llama_cpp_has_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (the extra gguf)")
    from nota_cli.generation.runtimes.llama_cpp import LlamaModel

    _, entry, _ = written(tmp_path, "llama", "f16", vocab_size=430)
    model = LlamaModel(tmp_path, SimpleNamespace(gguf=entry, decoder=None, files={}))
    with pytest.raises(UsageError, match="batch size times beams is 257"):
        model.context(10, 257)
