"""The model card of an export: what it is, what it was made from, how near to that it is, how to run it."""

from nota_cli.recipe.exported import Manifest
from nota_cli.recipe.schema import Recipe

CARD = "README.md"


def model_card(recipe: Recipe, manifest: Manifest) -> str:
    """Markdown made of a manifest, which holds the same in figures; the same manifest gives the same text."""
    bits = ", ".join(f"{part} {number}" for part, number in manifest.bits.items())
    decoder = "the decoder as GGUF for llama.cpp, the rest as ONNX" if manifest.gguf else "ONNX graphs"
    lines = [
        f"# {recipe.name}, exported",
        "",
        recipe.description or "A system of SALMONN's family.",
        "",
        f"Written by `nota export` (nota {manifest.nota}) from recipe `{recipe.name}` ({manifest.source['hash']}): "
        f"{decoder}, bits a weight: {bits}. It runs without torch:",
        "",
        "```bash",
        "pip install 'nota-cli[gguf]'" if manifest.gguf else "pip install 'nota-cli[onnx]'",
        "nota infer --recipe THIS_FOLDER --task asr --annotation test.json --audio-root DIR --out texts.csv",
        "```",
        "",
        "| part | million parameters | MB |",
        "|---|---|---|",
        *(
            f"| {part.name} | {part.parameters / 1e6:,.1f} | {sum(part.by_type.values()) / 1e6:,.1f} |"
            for part in manifest.parts
        ),
        "",
        f"Tasks: {', '.join(recipe.prompts.tasks)}; clips of up to {recipe.audio.max_seconds:g} s.",
        "",
    ]
    if parity := manifest.parity:
        errors = parity["relative_errors"]
        same = ", ".join(f"{count} at batch {size}" for size, count in parity["same_texts"].items())
        lines += [
            f"Against torch in float32, over {parity['clips']} clips: texts equal {same}; relative errors "
            + ", ".join(f"{part} {error:g} (at most {parity['bounds'][part]:g})" for part, error in errors.items())
            + ".",
            "",
        ]
    lines += [
        "What it can do, and the licences of its weights and of the data behind them, are those of its source: see the "
        "source's model card. Quantized decoders lose more on sound than on text; measure this folder itself, with "
        "`nota score` and `nota efficiency`, before you rely on it.",
        "",
    ]
    return "\n".join(lines)
