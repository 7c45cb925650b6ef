"""`nota export`: a trained system to a folder that runs without torch."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from nota_cli.cli.options import (
    AnnotationOption,
    AudioRootOption,
    CheckpointOption,
    JsonOption,
    LoadFormatOption,
    SetOption,
    pick_recipe,
)
from nota_cli.console import print_json, say, table

app = typer.Typer()

Width = Literal["32", "16", "8", "4"]


@app.command(
    epilog="Example: `nota export tiny --out exports/tiny --encoder-bits 8 --decoder-bits 8`, then "
    "`nota infer --recipe exports/tiny --task asr --annotation FILE`"
)
def export(
    source: Annotated[
        str, typer.Argument(help="Recipe or checkpoint folder: a name from `nota recipes list`, a YAML file, a folder.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; must not be there, or be empty.")],
    to: Annotated[
        Literal["onnx", "gguf"],
        typer.Option(help="Format to write. gguf: the decoder for llama.cpp, the other parts as ONNX beside it."),
    ] = "onnx",
    checkpoint: CheckpointOption = None,
    encoder_bits: Annotated[Width, typer.Option(help="Number of bits per weight of the encoders.")] = "32",
    decoder_bits: Annotated[Width, typer.Option(help="Number of bits per weight of the decoder.")] = "32",
    embedding_bits: Annotated[
        Width,
        typer.Option(
            help="Number of bits per weight of the token embedding; 8 or 4 as the decoder's store a tied one once."
        ),
    ] = "32",
    decoder_format: Annotated[
        Literal["f16", "q8_0", "q5_k_m", "q4_k_m"] | None,
        typer.Option(help="Format of the decoder's weights with --to gguf.", show_default="q8_0"),
    ] = None,
    integer_encoders: Annotated[
        bool,
        typer.Option(
            "--integer-encoders", help="Let encoders in 8 bits multiply integers: faster with AVX2 alone, less exact."
        ),
    ] = False,
    annotation: AnnotationOption = None,
    audio_root: AudioRootOption = None,
    clips: Annotated[
        int, typer.Option(min=1, help="Number of clips to compare (of --annotation, or of the shipped samples).")
    ] = 12,
    load_format: LoadFormatOption = "auto",
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a system as graphs that run without torch, and compare both over some clips.

    The folder holds graphs, tokenizer, recipe and `manifest.json`, and is a recipe itself: every command that runs a
    model takes it. Where a part is further from torch's than rounding explains, nothing is written and the exit
    status is 1.
    """
    from nota_cli.errors import UsageError
    from nota_cli.recipe.load import salmonn_recipe

    if to == "onnx" and decoder_format is not None:
        raise UsageError("--decoder-format is for --to gguf; a graph's decoder takes --decoder-bits")
    if to == "gguf" and (decoder_bits, embedding_bits) != ("32", "32"):
        raise UsageError("--decoder-bits and --embedding-bits are for --to onnx; GGUF takes --decoder-format")
    if integer_encoders and encoder_bits != "8":
        raise UsageError("--integer-encoders is for --encoder-bits 8")
    recipe = salmonn_recipe(pick_recipe(source, checkpoint, settings))  # says that it is loading

    from nota_cli.cli.guards import check_new_folder
    from nota_cli.compression.folders import refuse_used
    from nota_cli.imports import heavy_imports
    from nota_cli.recipe.inputs import recipe_inputs

    refuse_used(out)
    check_new_folder(out, recipe.checkpoint or source, recipe_inputs(recipe))
    with heavy_imports():
        from nota_cli.export.gguf import BITS
        from nota_cli.export.onnx import Bits
        from nota_cli.export.run import export as write
        from nota_cli.export.run import parity_clips

    chosen = parity_clips(recipe, annotation, audio_root, clips)
    bits = Bits(int(encoder_bits), int(decoder_bits), int(embedding_bits), integers=integer_encoders)
    if to == "gguf":
        kind = decoder_format or "q8_0"
        bits = Bits(int(encoder_bits), BITS[kind], BITS[kind], gguf=kind, integers=integer_encoders)
    manifest, parity = write(recipe, out, bits, chosen, load_format)
    size = sum(entry.bytes for entry in manifest.files.values())
    if as_json:
        print_json({"folder": str(out), "bytes": size, "bits": manifest.bits, "parity": parity.values()})
        return
    rows = [[part, f"{error:.1e}", f"{parity.bounds[part]:g}"] for part, error in parity.errors.items()]
    table(f"Relative errors over {parity.clips} clips", ["part", "error", "at most"], rows)
    for batch, same in parity.same_texts.items():
        say(f"batch {batch}: {same} of {parity.clips} texts as torch's")
    say(f"{out}: {size / 2**20:.1f} MiB")
