"""A system of SALMONN's family to a folder of ONNX graphs that runs without torch."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nota_cli.errors import NotaError, RecipeError
from nota_cli.export.gguf import write_decoder
from nota_cli.export.graphs import (
    Graph,
    cache_shape,
    graphs_of,
    is_output_layer,
    longest_bank,
    plain_linears,
    slides,
    token_scale,
)
from nota_cli.export.parity import connector_bits
from nota_cli.features.arrays import FRONT_ENDS
from nota_cli.files import file_sha256
from nota_cli.generation.runtimes.onnx import ENCODERS
from nota_cli.models.build import build
from nota_cli.models.families.salmonn import Salmonn
from nota_cli.recipe.exported import (
    FAMILY,
    FORMAT,
    MANIFEST,
    DecoderEntry,
    ExportRecipe,
    FileEntry,
    Front,
    Manifest,
    PartEntry,
    Windows,
)
from nota_cli.recipe.load import dump_recipe, recipe_hash
from nota_cli.recipe.schema import Recipe
from nota_cli.recipe.section import LoadFormat
from nota_cli.version import __version__

OPSET = 20
LARGEST_PROTOBUF = 2**31 - 2**24  # bytes; beyond it weights lie beside the graph
EXTERNAL = "weights"  # suffix of their file


@dataclass(frozen=True)
class Bits:
    """Bits of the weights of each part: 32, 16, 8, or 4. The connector has the encoders', but no fewer than 8.

    A token table that is the decoder's output layer, too, lies on disk once where both have 8 bits, or 4.

    With `integers`, the encoders' products in 8 bits are of integers (`nota_cli.export.quantize.quantize`).
    With `gguf`, decoder and embedding are one file of that format (`nota_cli.export.gguf.BITS`) for llama.cpp.
    """

    encoder: int = 32
    decoder: int = 32
    embedding: int = 32
    gguf: str | None = None
    integers: bool = False


def exportable(recipe: Recipe) -> Recipe:
    """The recipe as it is built for an export: full precision wherever the source has it.

    Raises:
        RecipeError: a part has no ONNX form here; it is named.
    """
    for name, kinds, kind in (
        ("speech_encoder", ("whisper",), recipe.speech_encoder.kind),
        ("audio_encoder", ("beats", "ced", "eat", "none"), recipe.audio_encoder.kind),
    ):
        if kind not in kinds:
            raise RecipeError(f"recipe {recipe.name!r} cannot be exported: {name}.kind {kind} has no ONNX form here")
    plain = {"dtype": "float32", "quantization": "none"}
    return recipe.model_copy(
        update={
            "speech_encoder": recipe.speech_encoder.model_copy(update=plain),
            "audio_encoder": recipe.audio_encoder.model_copy(update=plain),
            "decoder": recipe.decoder.model_copy(update={"dtype": "float32"}),
        }
    )


def source_model(recipe: Recipe, load_format: LoadFormat = "auto") -> Salmonn:
    """The torch model that an export stands for, in float32, its decoder's linear layers plain.

    Args:
        recipe: the system.
        load_format: "dummy" takes random weights of the true size, for measuring what an export would cost.

    Raises:
        RecipeError: the decoder has no form here, ONNX or GGUF.
    """
    model = build(exportable(recipe), "cpu", "run", load_format=load_format)
    base = model.decoder.base
    if base.config.model_type == "llama_moe":
        raise RecipeError(f"recipe {recipe.name!r} cannot be exported: which experts LLaMA-MoE runs depends on tokens")
    if not hasattr(model.decoder.tokenizer, "backend_tokenizer"):
        raise RecipeError(f"recipe {recipe.name!r} cannot be exported: its tokenizer has no tokenizer.json")
    plain_linears(base)
    model.decoder.model = base
    return model


def write_export(recipe: Recipe, model: Salmonn, folder: Path, bits: Bits) -> Manifest:
    """Write graphs, embedding (or a GGUF file that has it), tokenizer, recipe and manifest.

    Args:
        recipe: as it was given.
        model: of `source_model`.
        folder: an empty one.
        bits: of the weights.

    Raises:
        NotaError: the packages of the extra `export` are not installed.
        RecipeError: llama.cpp has no such decoder.
    """
    _check_packages()
    from nota_cli.export.embedding import write_table

    entry = None if bits.gguf is None else write_decoder(model, folder, bits.gguf)
    shared = bits.decoder in (8, 4) and bits.embedding == bits.decoder and is_output_layer(model.decoder)
    widths = {"connector": connector_bits(bits.encoder), "decoder": bits.decoder}
    for graph in graphs_of(model):
        if entry is None or graph.name != "decoder":
            shares = shared and graph.name == "decoder"
            integers = bits.integers and graph.name in ENCODERS
            _write_graph(graph, folder, widths.get(graph.name, bits.encoder), shares_table=shares, integers=integers)
    if entry is None and not shared:
        write_table(model.decoder, folder, bits.embedding)
    tokenizer: Any = model.decoder.tokenizer
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "recipe.yaml").write_text(dump_recipe(_recipe_of(recipe)), encoding="utf-8")
    files = {
        path.name: FileEntry(bytes=path.stat().st_size, sha256=file_sha256(path)) for path in sorted(folder.iterdir())
    }
    manifest = _manifest(recipe, model, bits, files).model_copy(update={"gguf": entry})
    write_manifest(folder, manifest)
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Put `manifest.json` into the folder of an export."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _recipe_of(recipe: Recipe) -> ExportRecipe:
    return ExportRecipe(
        name=recipe.name,
        family=FAMILY,
        description=recipe.description,
        audio=recipe.audio,
        prompts=recipe.prompts,
        generate=recipe.generate,
    )


def _manifest(recipe: Recipe, model: Salmonn, bits: Bits, files: dict[str, FileEntry]) -> Manifest:
    speech: Any = model.speech_encoder
    audio: Any = model.audio_encoder
    front_end = None if audio is None else audio.front_end
    if front_end is not None and front_end not in FRONT_ENDS:
        raise RecipeError(f"recipe {recipe.name!r} cannot be exported: its spectrogram {front_end!r} is torch's alone")
    tokenizer: Any = model.decoder.tokenizer
    config = model.decoder.base.config
    layers, heads, width = cache_shape(config)
    options = model.decoding_options(recipe.generate)
    return Manifest(
        format=FORMAT,
        nota=__version__,
        opset=OPSET,
        source={"recipe": recipe.name, "hash": recipe_hash(recipe)},
        bits={"encoder": bits.encoder, "decoder": bits.decoder, "embedding": bits.embedding},
        front=Front(
            mel_bins=speech.config.num_mel_bins,
            audio=front_end,
            longest_bank=0 if audio is None else longest_bank(audio),
        ),
        windows=Windows(
            window=model.connector.window,
            stride=model.connector.stride,
            keeps_rest=model.connector.keeps_rest,
            summary=model.recipe.connector.summary,
        ),
        decoder=DecoderEntry(
            layers=layers,
            heads=heads,
            head_width=width,
            width=model.decoder.width,
            sliding_window=int(config.sliding_window) if slides(config) else None,
            bos_id=tokenizer.bos_token_id,
            end_ids=list(options.end_ids),
            pad_id=options.pad_id,
            end_symbol=model.end_symbol,
            cleans_up_spaces=bool(getattr(tokenizer, "clean_up_tokenization_spaces", False)),
            token_scale=token_scale(model.decoder),
        ),
        parts=[
            PartEntry(name=part.name, parameters=part.parameters, by_type=dict(part.by_type))
            for part in _parts(model, files)
        ],
        files=files,
    )


def _parts(model: Salmonn, files: dict[str, FileEntry]) -> Iterator[PartEntry]:
    """Parameters as torch counts them, bytes as the files have them."""
    for part in model.parts():
        own = ("decoder", "embedding", "embedding_scale") if part.name == "decoder" else (part.name,)
        size = sum(entry.bytes for name, entry in files.items() if name.partition(".")[0] in own)
        if size:
            yield PartEntry(name=part.name, parameters=part.parameters, by_type={"file": size})


def _write_graph(graph: Graph, folder: Path, bits: int, *, shares_table: bool, integers: bool) -> None:
    import onnx_ir

    from nota_cli.export.embedding import share_table
    from nota_cli.export.quantize import quantize

    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph.module.eval(),
            tuple(graph.inputs.values()),
            dynamo=True,
            dynamic_shapes=tuple(graph.dynamic.values()),
            input_names=None,
            output_names=graph.outputs,
            opset_version=OPSET,
            verbose=False,
        )
    if program is None:
        raise NotaError(f"torch wrote no graph of the {graph.name}")
    model = program.model  # its weights are torch's own memory
    del program
    _strip(model)
    quantize(model, bits, integers=integers)
    if shares_table:
        share_table(model, folder)
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    beside = f"{graph.name}.{EXTERNAL}" if size > LARGEST_PROTOBUF else None
    onnx_ir.save(model, folder / f"{graph.name}.onnx", external_data=beside)


def _strip(model: Any) -> None:
    """Take out what tells of the machine that made the graph: stack traces, paths, versions."""
    from onnx_ir.traversal import RecursiveGraphIterator

    model.producer_name, model.producer_version = "nota", ""
    parts = [model, model.graph, *model.graph.subgraphs(), *model.functions.values()]
    nodes = [node for part in (model.graph, *model.functions.values()) for node in RecursiveGraphIterator(part)]
    values = [value for node in nodes for value in (*node.inputs, *node.outputs) if value is not None]
    for each in (*parts, *nodes, *values, *model.graph.inputs, *model.graph.initializers.values()):
        each.doc_string = None
        each.metadata_props.clear()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter notes of packages that are not there, and of its own plans."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _check_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise NotaError(f"{error.name} is not installed; exporting needs it: pip install 'nota-cli[export]'") from error
