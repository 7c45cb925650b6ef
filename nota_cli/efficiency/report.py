"""Measurements as tables and side by side."""

from pathlib import Path
from typing import Any

from nota_cli.console import say, table, warn
from nota_cli.errors import DataError, UsageError
from nota_cli.files import refuse_lfs_pointer
from nota_cli.parsing import decode, parse_json

Report = dict[str, Any]

LABELS = {
    "features": "features",
    "filter_bank": "filter bank",
    "speech_encoder": "speech encoder",
    "audio_encoder": "audio encoder",
    "connector": "connector",
    "prefill": "prompt and prefill",
    "ttft_from_features": "TTFT from features",
    "ttft_from_waveform": "TTFT from waveform",
    "ttft": "TTFT",
    "first_step": "first decode step",
    "tpot": "TPOT",
}
WEIGHTS = ("speech_encoder", "audio_encoder", "connector", "decoder", "lora", "weights")
MEMORY = {
    "before_loading": "before loading",
    "after_loading": "after loading",
    "load_peak": "peak while loading",
    "idle": "after a first pass",
    "running_peak": "peak while running",
    "activations_and_cache": "activations, KV cache",
    "kv_cache": "KV cache alone",
}
MUST_AGREE = ("protocol", "device", "audio_seconds", "load_format")


def show(report: Report) -> None:
    """The tables of one measurement."""
    floor = report["floor"]
    floors = {} if floor is None else floor["seconds"]
    rows = []
    for name, label in LABELS.items():
        if name in report["seconds"]:
            time = report["seconds"][name]
            least = floors.get(name)
            times = "" if not least else f"{time['median'] / least:,.1f}"
            rows.append([label, *(_ms(time[key]) for key in ("median", "p10", "p90")), _ms(least), times])
    table(
        f"{report['recipe']} ({report['recipe_hash']}), {report['protocol']}, {report['audio_seconds']:g} s of audio",
        ["ms", "median", "p10", "p90", "floor", "x floor"],
        rows,
    )
    rows = []
    for name in WEIGHTS:
        if f"{name}_mb" in report:
            kinds = report["weights_by_type_mb"].get(name, {})
            rows.append([name.replace("_", " "), _mb(report[f"{name}_mb"]), _kinds(kinds)])
    table("Weights", ["part", "MB", "MB by type"], rows)
    rows = [[label, _mb(report["memory_mb"][name])] for name, label in MEMORY.items() if name in report["memory_mb"]]
    table("Memory", [report["memory_is"], "MB"], rows)
    if floor is not None:
        rates = ", ".join(f"{name} {rate:,.3g}" for name, rate in floor["matmul_tflop_s"].items())
        operations = sum(floor["operations"].values()) / 1e9
        say(
            f"floor: {floor['bytes_per_token'] / 1e6:,.1f} MB a token at {floor['bandwidth_gb_s']:,.1f} GB/s; "
            f"{operations:,.1f} billion operations of a prefill at {rates} TFLOP/s"
        )
    say(f"{report['rounds']} rounds counted, {report['seconds']['tpot']['count']} decode steps; {report['device']}")
    say(", ".join(f"{name} {version}" for name, version in report["versions"].items()))


def read_report(file: Path) -> Report:
    """A measurement that `nota efficiency --out` or `--json` wrote.

    Raises:
        DataError: it is none.
    """
    refuse_lfs_pointer(file, error=DataError)
    try:
        report = parse_json(decode(file.read_bytes()))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as a measurement: {error}") from error
    if not (isinstance(report, dict) and {"recipe", "seconds", "weights_mb", "memory_mb"} <= set(report)):
        raise DataError(f"{file}: not a measurement; write one with nota efficiency --out {file.name}")
    return report


def compare(files: list[Path]) -> Report:
    """Two or more measurements side by side, the later ones as multiples of the first.

    Returns:
        `names`, and `rows`: for each figure that all have, its `unit`, its `values` and their `ratios` to the first.

    Raises:
        UsageError: fewer than two files.
        DataError: one is not a measurement.
    """
    if len(files) < 2:
        raise UsageError("--compare needs two files or more: --compare A.json --compare B.json")
    reports = [read_report(file) for file in files]
    for key in MUST_AGREE:
        values = [report.get(key) for report in reports]
        if any(value != values[0] for value in values):
            warn(f"these measurements differ in {key}: {', '.join(map(str, values))}")
    names = [str(report["recipe"]) for report in reports]
    if len(set(names)) < len(names):
        names = [file.stem for file in files]
    figures: list[tuple[str, str, list[Any]]] = []
    for name, label in LABELS.items():
        figures.append((label, "ms", [_median(report, name) for report in reports]))
    for name in WEIGHTS:
        label = "all weights" if name == "weights" else f"{name.replace('_', ' ')} weights"
        figures.append((label, "MB", [report.get(f"{name}_mb") for report in reports]))
    for name, label in MEMORY.items():
        figures.append((label, "MB", [report["memory_mb"].get(name) for report in reports]))
    rows = []
    for label, unit, values in figures:
        if any(value is not None for value in values):
            first = values[0]
            ratios = [value / first if value is not None and first else None for value in values[1:]]
            rows.append({"figure": label, "unit": unit, "values": values, "ratios": ratios})
    return {"names": names, "rows": rows}


def show_comparison(comparison: Report) -> None:
    """The table of `compare`."""
    names = comparison["names"]
    rows = []
    for row in comparison["rows"]:
        form = (lambda value: _ms(None if value is None else value / 1000)) if row["unit"] == "ms" else _mb
        ratios = ["" if ratio is None else f"{ratio:.2f}x" for ratio in row["ratios"]]
        cells = [form(row["values"][0])]
        for value, ratio in zip(row["values"][1:], ratios, strict=True):
            cells += [form(value), ratio]
        rows.append([f"{row['figure']}, {row['unit']}", *cells])
    columns = [names[0], *(cell for name in names[1:] for cell in (name, "ratio"))]
    table("Side by side, medians", ["", *columns], rows)


def text_table(rows: list[tuple[str, str]]) -> str:
    """Two columns as plain text, for a message."""
    left = max(len(first) for first, _ in rows)
    right = max(len(second) for _, second in rows)
    return "\n".join(f"  {first:<{left}}  {second:>{right}}" for first, second in rows)


def _median(report: Report, name: str) -> float | None:
    time = report["seconds"].get(name)
    return None if time is None else time["median"] * 1000


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return ""
    value = seconds * 1000
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{decimals}f}"


def _mb(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"


def _kinds(kinds: dict[str, float]) -> str:
    large = {name: size for name, size in kinds.items() if size > sum(kinds.values()) / 1000}
    return ", ".join(f"{name} {size:,.1f}" for name, size in large.items())
