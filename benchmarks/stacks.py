"""What the five main systems cost as their teams ran them, and the three slim ones beside them, all in one run.

    python benchmarks/stacks.py --out stacks.json --markdown stacks.md
    python benchmarks/stacks.py --device cuda --out stacks-gpu.json --markdown stacks-gpu.md
    python benchmarks/stacks.py --only qwen2.5-0.5b-ced --exports exports --out stacks-onnx.json

Weights are random ones of the true size; nothing is downloaded. A team's stack is its recipe with float32 encoders,
clips padded to 30 s, adapters unmerged and transformers' own decoding. On a CPU its float16 decoders run in bfloat16,
which is as large and many times quicker there. A slim recipe is measured right after its team's, and both again in the
next round; every figure is the median over rounds. With --exports, each slim recipe is also exported (`nota export
--load-format dummy`, once; a folder that is there is taken as it is) and run by onnxruntime in the same rounds.
Which instructions torch may use is up to ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA; onnxruntime takes what the
processor has, so only one without AVX-512 tells how both compare there. Ends with one JSON line.
"""

import argparse
import json
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PAIRS = {
    "salmonn-7b": None,
    "salmonn-3b": None,
    "gemma2-2b-gptq": "gemma2-2b-gptq-slim",
    "qwen2.5-0.5b-ced": "qwen2.5-0.5b-ced-slim",
    "llama3.2-1b-bnb4": "llama3.2-1b-slim",
}
DUMMY = ["--load-format", "dummy"]
AS_THE_TEAMS_RAN = ["generate.decoding=plain", "generate.merge_lora=never"]
HALF_ON_CPU = {name: ["decoder.dtype=bfloat16"] for name in ("salmonn-7b", "salmonn-3b", "qwen2.5-0.5b-ced")}
PARTS = ("speech_encoder", "audio_encoder", "connector", "decoder", "lora")
STAGES = ("features", "speech_encoder", "audio_encoder", "connector", "prefill")


def nota(*words: str) -> dict[str, Any]:
    """What one command prints, in a process of its own: nothing of one system lies in memory beside the next."""
    print("nota", *words, file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "nota_cli.cli", *words, "--json"]
    run = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if run.returncode:
        raise SystemExit(f"nota {' '.join(words[:3])} ended with {run.returncode}; its message is above")
    return json.loads(run.stdout)


def measure(recipe: str, options: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """One `nota efficiency`."""
    words = ["--device", arguments.device, "--seconds", str(arguments.seconds), f"--tokens={arguments.tokens}"]
    return nota("efficiency", "--recipe", recipe, *words, f"--audio-seconds={arguments.audio_seconds:g}", *options)


def exported(recipe: str, bits: str, folder: Path) -> Path:
    """The export of a recipe, made here unless it is there.

    Args:
        recipe: with random weights.
        bits: of the encoders and of the decoder, `8-4`; the token table has 8.
        folder: of all exports.
    """
    target = folder / f"{recipe}-{bits}"
    if not target.is_dir():
        encoder, decoder = bits.split("-")
        widths = ["--encoder-bits", encoder, "--decoder-bits", decoder, "--embedding-bits", "8"]
        nota("export", recipe, "--out", str(target), *DUMMY, *widths, "--clips", "1")
    return target


def measure_all(arguments: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Every system's reports, round by round."""
    reports: dict[str, list[dict[str, Any]]] = {}

    def one(name: str, recipe: str, options: list[str]) -> None:
        reports.setdefault(name, []).append(measure(recipe, options, arguments))

    for team in arguments.only or PAIRS:
        slim = PAIRS.get(team)
        small = slim or (None if team in PAIRS else team)  # what is exported
        exports = {
            bits: exported(small, bits, arguments.exports) for bits in arguments.bits if small and arguments.exports
        }
        as_it_ran = AS_THE_TEAMS_RAN if team in PAIRS else []
        if not arguments.device.startswith("cuda"):
            as_it_ran = as_it_ran + HALF_ON_CPU.get(team, [])
        settings = [word for setting in as_it_ran for word in ("--set", setting)]
        for _ in range(arguments.rounds if small else 1):
            if not (arguments.slim_only and slim):
                one(team, team, [*DUMMY, *settings])
            if slim:
                one(slim, slim, DUMMY)
            for bits, folder in exports.items():
                one(f"{small} onnx {bits}", str(folder), [])
    return reports


def figures(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds of one system."""
    last = reports[-1]

    def median(pick: Any) -> float | None:
        values = [pick(report) for report in reports]
        return None if None in values else round(statistics.median(values), 6)

    times = {stage: median(lambda r, s=stage: r["seconds"].get(s, {"median": None})["median"]) for stage in STAGES}
    return {
        "weights_mb": last["weights_mb"],
        "parts_mb": {part: last.get(f"{part}_mb", 0.0) for part in PARTS},
        "load_peak_mb": median(lambda r: r["memory_mb"].get("load_peak")),
        "running_peak_mb": median(lambda r: r["memory_mb"].get("running_peak")),
        "ttft_s": median(lambda r: r["ttft_from_waveform_s"]),
        "stages_s": times,
        "tpot_s": median(lambda r: r["tpot_s"]),
        "tpot_floor_s": median(lambda r: r["floor"] and r["floor"]["seconds"]["tpot"]),  # exports have none
        "kernel": last["kernel"],
        "decoding": last.get("decoding"),
        "rounds": len(reports),
        "steps_a_round": last["seconds"]["tpot"]["count"],
    }


def markdown(result: dict[str, Any]) -> str:
    """Weights by part, memory and times with their ratios, where the time to the first token goes, exports by torch."""
    systems = result["systems"]
    team_of = {slim: team for team, slim in PAIRS.items() if slim}
    source_of = {name: name.split(" onnx ")[0] for name in systems if " onnx " in name}
    team_of |= {name: team_of[source] for name, source in source_of.items() if source in team_of}
    lines = [
        "| system | speech encoder | audio encoder | connector | decoder | LoRA | all, MB | of its team's |",
        "|---|---|---|---|---|---|---|---|",
    ]

    def ratio(name: str, key: str) -> str:
        team = systems.get(team_of.get(name, ""))
        if team is None or not team[key] or systems[name][key] is None:
            return ""
        return f"**{systems[name][key] / team[key]:.2f}x**"

    for name, figure in systems.items():
        parts = " | ".join(f"{figure['parts_mb'][part]:,.0f}" for part in PARTS)
        lines.append(f"| `{name}` | {parts} | {figure['weights_mb']:,.0f} | {ratio(name, 'weights_mb')} |")
    lines += [
        "",
        "| system | peak memory, MB | | TTFT, ms | | TPOT, ms | | TPOT floor, ms | x floor | kernel | decoding |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, figure in systems.items():
        cells = []
        for key, scale in (("running_peak_mb", 1), ("ttft_s", 1000), ("tpot_s", 1000)):
            cells += [f"{scale * figure[key]:,.{1 if key == 'tpot_s' else 0}f}", ratio(name, key)]
        floor = figure["tpot_floor_s"]
        cells += ["", ""] if floor is None else [f"{1000 * floor:,.1f}", f"{figure['tpot_s'] / floor:.1f}"]
        cells += [figure["kernel"], figure["decoding"] or ""]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    lines += [
        "",
        "| TTFT, ms | features | speech encoder | audio encoder | connector | prompt and prefill |",
        "|---|---|---|---|---|---|",
    ]
    for name, figure in systems.items():
        stages = [figure["stages_s"][stage] for stage in STAGES]
        lines.append(f"| `{name}` | {' | '.join('' if s is None else f'{1000 * s:,.0f}' for s in stages)} |")
    if source_of:
        lines += [
            "",
            "| export, of its source in torch | weights | peak memory | TTFT | TPOT |",
            "|---|---|---|---|---|",
        ]
    for name, source in source_of.items():
        pairs = [
            (systems[name][key], systems[source][key]) for key in ("weights_mb", "running_peak_mb", "ttft_s", "tpot_s")
        ]
        lines.append(f"| `{name}` | {' | '.join(f'{ours / theirs:.2f}x' for ours, theirs in pairs)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", action="append", metavar="RECIPE", help="a team's, or any other; again for more")
    parser.add_argument(
        "--slim-only", action="store_true", help="without the teams' own stacks where there is a slim one"
    )
    parser.add_argument("--exports", type=Path, help="folder that has or gets an export of each slim recipe")
    parser.add_argument("--bits", action="append", metavar="ENCODERS-DECODER", help="of exports; default: 8-8 and 8-4")
    parser.add_argument("--rounds", type=int, default=3, help="of a system; one without a slim recipe has one")
    parser.add_argument("--seconds", type=float, default=10.0, help="as nota efficiency takes it")
    parser.add_argument("--audio-seconds", type=float, default=10.0)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--out", type=Path, help="the JSON, with every single report")
    parser.add_argument("--markdown", type=Path, help="the tables")
    arguments = parser.parse_args()
    arguments.bits = arguments.bits or ["8-8", "8-4"]
    reports = measure_all(arguments)
    first = next(iter(reports.values()))[0]
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": first["device"],
        "machine": first["machine"],
        "versions": first["versions"],
        "audio_seconds": arguments.audio_seconds,
        "systems": {name: figures(found) for name, found in reports.items()},
    }
    if arguments.out:
        arguments.out.write_text(json.dumps({**result, "reports": reports}, indent=1) + "\n", encoding="utf-8")
    if arguments.markdown:
        arguments.markdown.write_text(markdown(result), encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
