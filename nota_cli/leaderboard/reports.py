"""Score and efficiency reports on disk, joined into runs."""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nota_cli.console import say
from nota_cli.errors import DataError, UsageError, listing
from nota_cli.files import refuse_lfs_pointer
from nota_cli.parsing import parse_json

SCORES = {"asr": ("wer", "wer"), "aac": ("spider", "cider_d_x100"), "qa": ("qa", "exact_match")}
"""Task of a score report -> the figure that it gives and the key under which it lies."""

FIGURES = ("wer", "spider", "memory", "latency", "qa", "ttft", "tpot")
MEASUREMENT = {"recipe", "seconds", "weights_mb", "memory_mb"}
REMEDY = "write one with nota score CSV --json > FILE.json or nota efficiency --out FILE.json"
# What a file's name says about its kind, not about its run.
_KIND = re.compile(r"(?:^|[-_. ])(?:asr|aac|qa|scores?|reports?|efficiency|eff)(?=[-_. ]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Run:
    """One system's figures and where they come from.

    Attributes:
        name: how the table calls it.
        figures: `wer` (percent), `spider` (CIDEr-D x 100), `memory` (GiB), `latency` (s, TTFT + TPOT), `qa` (percent
            of `answers`), `ttft` and `tpot` (s); None where missing.
        device: what memory and latency were measured on.
        protocol: how they were measured.
        profile: how texts were scored.
        answers: how answers to questions were judged: `accuracy` where every row has choices, else `exact match`.
        rows: number of clips that a figure was scored on.
        load_format: `dummy` if they were measured with random weights.
        reference: reported by others.
        note: what has to be known about a figure.
        files: the reports.
    """

    name: str
    figures: dict[str, float | None]
    device: str = ""
    protocol: str = ""
    profile: str = ""
    answers: str = ""
    load_format: str = ""
    reference: bool = False
    note: str = ""
    files: tuple[Path, ...] = ()
    rows: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """One file: its kind (`efficiency`, or a score's task), and the name that is left without what names the kind."""

    path: Path
    kind: str
    values: dict[str, Any]

    @property
    def stem(self) -> str:
        """The file's name without the words for its kind; the folder's name where nothing is left."""
        left = _KIND.sub("", self.path.stem).strip("-_. ")
        return left or self.path.absolute().parent.name

    @property
    def key(self) -> tuple[Path, str]:
        """What the reports of one run share."""
        return self.path.absolute().parent, self.stem

    @property
    def recipe(self) -> str:
        """The recipe that the report names, or nothing."""
        return str(self.values.get("recipe") or "")


@dataclass(frozen=True)
class Group:
    """The reports of one run, and the names that it may go by: the first that no other run has."""

    names: tuple[str, ...]
    reports: list[Report]


def read_runs(arguments: list[str]) -> list[Run]:
    """The runs that the arguments of `nota compare` name.

    An argument is a report, a folder, or `NAME=FILE,FILE`. A folder's reports are one run, unless it holds two of a
    kind; a folder without reports stands for the folders in it. Otherwise reports are joined where they lie in one
    folder and their names are equal once the words for their kind (asr, aac, qa, score, report, efficiency) are taken
    off, or where what is left of a score's name is the recipe of a measurement: `tiny-asr.json`, `tiny-aac.json` and a
    measurement of `tiny`.

    Raises:
        UsageError: a path is not there, two reports of one kind meet in a run, or two runs have one name.
        DataError: a file is neither kind of report, or a folder holds none; a figure is below zero.
    """
    groups: list[Group] = []
    loose: dict[Path, Report] = {}
    for argument in dict.fromkeys(arguments):
        name, separator, files = argument.partition("=")
        path = Path(argument)
        if separator and not path.exists():
            if not name.strip() or not files.strip():
                raise UsageError(f"{argument!r}: write NAME=FILE,FILE")
            reports = [_report(Path(file.strip())) for file in files.split(",") if file.strip()]
            groups.append(Group((name.strip(),), _checked(name.strip(), reports)))
        elif path.is_dir():
            for reports in _folders(path):
                if len({report.kind for report in reports}) == len(reports):
                    folder = reports[0].path.absolute().parent
                    groups.append(
                        Group((*_recipes(reports), folder.name, f"{folder.parent.name}/{folder.name}"), reports)
                    )
                else:
                    loose |= {report.path.absolute(): report for report in reports}
        else:
            loose[path.absolute()] = _report(path)
    groups += _join(list(loose.values()))
    return [_run(name, group.reports) for name, group in zip(_titles(groups), groups, strict=True)]


def _folders(path: Path) -> list[list[Report]]:
    """The reports in a folder, or, where it holds none, those of the folders in it."""
    reports, reasons = _inside(path)
    groups = [reports] if reports else []
    if not reports:
        for folder in sorted(path.iterdir()):
            if folder.is_dir():
                reports, more = _inside(folder)
                reasons += more
                groups += [reports] if reports else []
    if not groups:
        why = f":\n{listing(reasons)}\n" if reasons else "; "
        raise DataError(f"{path}: no score or efficiency report in this folder{why}{REMEDY}")
    if reasons:
        say(f"passed over, as no reports:\n{listing(reasons)}")
    return groups


def _inside(folder: Path) -> tuple[list[Report], list[str]]:
    """The reports in a folder, and why other JSON files are none."""
    reports, others = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            reports.append(_report(path))
        except DataError as error:
            others.append(str(error).removesuffix(f"; {REMEDY}"))
    return reports, others


def _report(path: Path) -> Report:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; give a JSON report or a folder of them") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text, so no report; {REMEDY}") from error
    refuse_lfs_pointer(path, text.encode(), DataError)
    try:
        values = parse_json(text, allow_nan=True)  # such figures count as missing
    except ValueError as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); {REMEDY}") from error
    if isinstance(values, dict) and values.keys() >= MEASUREMENT:
        return Report(path, "efficiency", values)
    if isinstance(values, dict) and isinstance(values.get("profiles"), dict):  # of `--profile all`
        values = values["profiles"].get("organisers", values)
    task = values.get("task") if isinstance(values, dict) else None
    if isinstance(task, str) and task in SCORES:
        return Report(path, task, values)
    raise DataError(f"{path}: neither a score nor an efficiency report; {REMEDY}")


def _join(reports: list[Report]) -> list[Group]:
    """Reports of one run together, in the order of the first of each."""
    measured = [report for report in reports if report.kind == "efficiency"]
    joined: dict[tuple[Path, str], list[Report]] = {}
    for report in reports:
        key = report.key
        if report.kind != "efficiency" and not any(other.key == key for other in measured):
            fits = [other for other in measured if other.recipe and other.recipe in (report.stem, report.recipe)]
            near = [other for other in fits if other.key[0] == key[0]] or fits
            if len(near) == 1:
                key = near[0].key
        joined.setdefault(key, []).append(report)
    return [
        Group((*_recipes(group), stem, f"{folder.name}/{stem}"), _checked(stem, group))
        for (folder, stem), group in joined.items()
    ]


def _titles(groups: list[Group]) -> list[str]:
    """A name for every group: runs whose names are equal go by their next ones.

    Raises:
        UsageError: names are equal to the last.
    """
    choices = [0] * len(groups)
    while True:
        titles = [group.names[choice] for group, choice in zip(groups, choices, strict=True)]
        twice = [index for index, title in enumerate(titles) if titles.count(title) > 1]
        if not twice:
            return titles
        more = [index for index in twice if choices[index] + 1 < len(groups[index].names)]
        if not more:
            paths = ", ".join(str(groups[index].reports[0].path) for index in twice)
            raise UsageError(f"two runs are called {titles[twice[0]]!r} ({paths}); name one of them: NAME=FILE,FILE")
        for index in more:
            choices[index] += 1


def _checked(name: str, group: list[Report]) -> list[Report]:
    first: dict[str, Report] = {}
    for report in group:
        if report.kind in first:
            both = f"{first[report.kind].path} and {report.path}"
            raise UsageError(f"{name}: {both} are both {report.kind} reports; keep them apart: NAME=FILE,FILE")
        first[report.kind] = report
    return group


def _recipes(group: list[Report]) -> list[str]:
    return [report.recipe for report in group if report.recipe][:1]


def _run(name: str, group: list[Report]) -> Run:
    figures: dict[str, float | None] = dict.fromkeys(FIGURES)
    about: dict[str, Any] = {"device": "", "protocol": "", "profile": "", "load_format": ""}
    profiles: list[str] = []
    rows: dict[str, int] = {}
    for report in group:
        values = report.values
        if report.kind == "efficiency":
            figures["memory"] = _figure(report, "peak_memory_gib")
            # The organisers' clock leaves Whisper's log-mel out, as this one does.
            ttft = _figure(report, "ttft_s")
            figures["ttft"] = _figure(report, "ttft_from_features_s") if ttft is None else ttft
            figures["tpot"] = _figure(report, "tpot_s")
            if figures["ttft"] is not None and figures["tpot"] is not None:
                figures["latency"] = round(figures["ttft"] + figures["tpot"], 9)
            about |= {key: str(values.get(key) or "") for key in ("device", "protocol", "load_format")}
        else:
            figure, key = SCORES[report.kind]
            if report.kind == "qa":
                choices = _figure(report, "choice_rows")
                key = "accuracy" if choices is not None and choices == _figure(report, "rows") else key
                about["answers"] = key.replace("_", " ")
            figures[figure] = _figure(report, key)
            if (count := _figure(report, "rows")) is not None:
                rows[figure] = int(count)
            profiles.append(str(values.get("profile") or "organisers"))
            if report.kind == "aac" and figures[figure] is None:
                about["note"] = "its captions have no CIDEr-D x 100; score them with --profile organisers"
    about["profile"] = ", ".join(sorted(set(profiles)))
    return Run(name, figures, files=tuple(report.path for report in group), rows=rows, **about)


def _figure(report: Report, key: str) -> float | None:
    """A finite number, or None: what is not there must not count as good.

    Raises:
        DataError: the number is below zero, which none of them can be.
    """
    value = report.values.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    if value < 0:
        raise DataError(f"{report.path}: {key} is {value:g}, and it cannot be below zero; measure or score again")
    return float(value)
