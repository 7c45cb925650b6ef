"""What the five main systems cost as their teams ran them, and the three slim ones beside them, all in one run.

    python benchmarks/stacks.py --out stacks.json --markdown stacks.md
    python benchmarks/stacks.py --device cuda --out stacks-gpu.json --markdown stacks-gpu.md

Weights are random ones of the true size; nothing is downloaded. A team's stack is its recipe with float32 encoders,
clips padded to 30 s, adapters unmerged and transformers' own decoding. On a CPU its float16 decoders run in bfloat16,
which is as large and many times quicker there. A slim recipe is measured right after its team's, and both again in the
next round; every figure is the median over rounds. Ends with one JSON line.
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
AS_THE_TEAMS_RAN = ["generate.decoding=plain", "generate.merge_lora=never"]
HALF_ON_CPU = {name: ["decoder.dtype=bfloat16"] for name in ("salmonn-7b", "salmonn-3b", "qwen2.5-0.5b-ced")}
PARTS = ("speech_encoder", "audio_encoder", "connector", "decoder", "lora")
STAGES = ("features", "speech_encoder", "audio_encoder", "connector", "prefill")


def measure(recipe: str, settings: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """One `nota efficiency` in a process of its own, so that nothing of one system lies in memory beside the next."""
    command = [sys.executable, "-m", "nota_cli.cli", "efficiency", "--recipe", recipe, "--load-format", "dummy"]
    command += ["--json", "--device", arguments.device, "--seconds", str(arguments.seconds)]
    command += [f"--audio-seconds={arguments.audio_seconds:g}", f"--tokens={arguments.tokens}"]
    for setting in settings:
        command += ["--set", setting]
    print(f"{recipe} {' '.join(settings)}", file=sys.stderr, flush=True)
    run = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if run.returncode:
        raise SystemExit(f"nota efficiency --recipe {recipe} ended with {run.returncode}; its message is above")
    return json.loads(run.stdout)


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
        "tpot_floor_s": median(lambda r: r["floor"]["seconds"]["tpot"]),
        "kernel": last["kernel"],
        "decoding": last.get("decoding"),
        "rounds": len(reports),
        "steps_a_round": last["seconds"]["tpot"]["count"],
    }


def markdown(result: dict[str, Any]) -> str:
    """Three tables: weights by part, memory and times with their ratios, and where the time to the first token goes."""
    systems = result["systems"]
    team_of = {slim: team for team, slim in PAIRS.items() if slim}
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
        cells += [f"{1000 * floor:,.1f}", f"{figure['tpot_s'] / floor:.1f}", figure["kernel"], figure["decoding"] or ""]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    lines += [
        "",
        "| TTFT, ms | features | speech encoder | audio encoder | connector | prompt and prefill |",
        "|---|---|---|---|---|---|",
    ]
    for name, figure in systems.items():
        stages = [figure["stages_s"][stage] for stage in STAGES]
        lines.append(f"| `{name}` | {' | '.join('' if s is None else f'{1000 * s:,.0f}' for s in stages)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", action="append", choices=PAIRS, help="a team's recipe; again for more")
    parser.add_argument("--rounds", type=int, default=3, help="of a pair; a system without a slim one has one")
    parser.add_argument("--seconds", type=float, default=10.0, help="as nota efficiency takes it")
    parser.add_argument("--audio-seconds", type=float, default=10.0)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--out", type=Path, help="the JSON, with every single report")
    parser.add_argument("--markdown", type=Path, help="the tables")
    arguments = parser.parse_args()
    reports: dict[str, list[dict[str, Any]]] = {}
    for team, slim in PAIRS.items():
        if arguments.only and team not in arguments.only:
            continue
        settings = AS_THE_TEAMS_RAN + ([] if arguments.device.startswith("cuda") else HALF_ON_CPU.get(team, []))
        for _ in range(arguments.rounds if slim else 1):
            reports.setdefault(team, []).append(measure(team, settings, arguments))
            if slim:
                reports.setdefault(slim, []).append(measure(slim, [], arguments))
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
