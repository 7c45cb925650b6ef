"""Captions by the published metrics, through the package aac-metrics: the one place of `score` that needs torch."""

import logging
import math
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nota_cli.errors import DataError, UsageError, listing

DOWNLOAD = "run `aac-metrics-download` once, with a network"
METRICS = ("cider_d", "spice", "spider", "meteor", "fense")
TOKENIZER = "PTB tokenizer of Stanford CoreNLP 3.4.1 (lower case, punctuation dropped)"
FLUENCY_PENALTY = 0.9  # what a fluency error takes of a caption's SPIDEr, as in DCASE since 2023


@dataclass
class CaptionScores:
    """What was computed, and why the rest was not.

    Attributes:
        values: metric to its corpus value, on the metric's own scale.
        per_clip: metric to each clip's value, in order.
        lacking: metric that was not computed to what is missing and how to get it.
    """

    values: dict[str, float] = field(default_factory=dict)
    per_clip: dict[str, tuple[float, ...]] = field(default_factory=dict)
    lacking: dict[str, str] = field(default_factory=dict)


def standard_captions(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, fluency: bool = False
) -> CaptionScores:
    """CIDEr-D, SPICE, SPIDEr = (CIDEr-D + SPICE) / 2, METEOR and FENSE, all after PTB tokenization.

    All of it is computed by aac-metrics, from files that `aac-metrics-download` fetches; models of the hub are looked
    for in its cache alone. A metric whose files are missing is left out and named.

    Args:
        hypotheses: the model's captions; at least two.
        references: the references of each.
        fluency: SPIDEr-FL (`spider_fl`) as well: SPIDEr, less nine tenths where a model finds a fluency error.

    Raises:
        UsageError: aac-metrics, Java or the tokenizer's file is missing, so that nothing can be computed.
        DataError: fewer than two clips (CIDEr-D's idf would be 0).
    """
    if len(hypotheses) < 2:
        raise DataError("CIDEr-D weighs words by how rare they are among the references: give it at least two clips")
    if find_spec("aac_metrics") is None:
        raise UsageError(
            "the published caption metrics need the package aac-metrics: `pip install 'nota-cli[spider]'`, Java 8 to "
            "13 and, once, `aac-metrics-download`. `--profile organisers` needs none of them."
        )
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # else a missing model means a minute of attempts to fetch it
    from aac_metrics.functional import cider_d
    from aac_metrics.utils.tokenization import preprocess_mono_sents, preprocess_mult_sents

    _check_tokenizer()
    candidates = preprocess_mono_sents([_one_line(text) for text in hypotheses])
    several = preprocess_mult_sents([[_one_line(text) for text in own] for own in references])
    scores = CaptionScores()
    _add(scores, "cider_d", cider_d(candidates, several))
    _optional(scores, "spice", _spice, candidates, several)
    if "spice" in scores.values:
        both = zip(scores.per_clip["cider_d"], scores.per_clip["spice"], strict=True)
        scores.values["spider"] = (scores.values["cider_d"] + scores.values["spice"]) / 2
        scores.per_clip["spider"] = tuple((cider + spice) / 2 for cider, spice in both)
    else:
        scores.lacking["spider"] = "it is the mean of CIDEr-D and SPICE, and SPICE is missing"
    _optional(scores, "meteor", _meteor, candidates, several)
    _optional(scores, "fense", _fense, candidates, several)
    if fluency:
        _add_fluency(scores, candidates, several)
    return scores


def _add_fluency(scores: CaptionScores, candidates: list[str], references: list[list[str]]) -> None:
    """SPIDEr-FL, from each clip's SPIDEr and whether it has a fluency error; the latter alone is not reported."""
    found = CaptionScores()
    _optional(found, "fer", _fer, candidates, references)
    missing = [name for name, given in (("spider", scores), ("fer", found)) if name not in given.values]
    if missing:
        why = scores.lacking["spider"] if "spider" in missing else f"the fluency model: {found.lacking['fer']}"
        scores.lacking["spider_fl"] = f"it is SPIDEr less fluency errors; {why}"
        return
    clips = less_fluency_errors(scores.per_clip["spider"], found.per_clip["fer"])
    scores.per_clip["spider_fl"], scores.values["spider_fl"] = clips, sum(clips) / len(clips)


def less_fluency_errors(spider: Sequence[float], errors: Sequence[float]) -> tuple[float, ...]:
    """Each clip's SPIDEr-FL: its SPIDEr, or a tenth of it where the caption has a fluency error (1; else 0)."""
    return tuple(value * (1 - FLUENCY_PENALTY * error) for value, error in zip(spider, errors, strict=True))


def versions() -> dict[str, str]:
    """What the figures depend on."""
    return {name: version(name) for name in ("aac-metrics", "torch", "sentence-transformers")} | {"java": _java()[1]}


def _one_line(text: str) -> str:
    return " ".join(text.split())  # the tokenizer takes a text a line


def _check_tokenizer() -> None:
    from aac_metrics.utils import checks
    from aac_metrics.utils.globals import get_default_cache_path
    from aac_metrics.utils.tokenization import FNAME_STANFORD_CORENLP_3_4_1_JAR

    lowest, highest = checks.MIN_JAVA_MAJOR_VERSION, checks.MAX_JAVA_MAJOR_VERSION
    remedy = f"install Java {lowest} to {highest} (11, say) and let AAC_METRICS_JAVA_PATH name its `java`"
    major, java = _java()
    problems = []
    if major is None:
        problems.append(f"Java: {java}; {remedy}")
    elif not lowest <= major <= highest:
        problems.append(f"Java: version {java} is not one that SPICE and METEOR run on; {remedy}")
    file = Path(get_default_cache_path()) / FNAME_STANFORD_CORENLP_3_4_1_JAR
    if not file.is_file():
        problems.append(f"the PTB tokenizer: no file {file}; {DOWNLOAD}, or let AAC_METRICS_CACHE_PATH name its folder")
    if problems:
        raise UsageError(
            f"every published caption metric needs the PTB tokenizer, and that lacks:\n{listing(problems)}\n"
            "`--profile organisers` needs none of this."
        )


def _java() -> tuple[int | None, str]:
    """The major version of the Java that aac-metrics would use, and its full one; None and why there is none."""
    from aac_metrics.utils.globals import get_default_java_path

    command = get_default_java_path()
    if shutil.which(command) is None:
        return None, f"there is no program {command!r}"
    output = subprocess.run([command, "-version"], capture_output=True, text=True, check=False).stderr
    match = re.search(r'version "((?:1\.)?(\d+)[^"]*)"', output)
    return (int(match[2]), match[1]) if match else (None, f"{command} -version does not tell its version")


def _optional(
    scores: CaptionScores, name: str, compute: Callable[..., Any], candidates: list[str], references: list[list[str]]
) -> None:
    """Add a metric, or the reason why it cannot be computed on this machine."""
    logger = logging.getLogger("aac_metrics")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what it would log is in the reason
    try:
        _add(scores, name, compute(candidates, references))
    except Exception as error:  # another's code and files: whatever fails there, the other metrics still count
        reason = next(iter(str(error).strip().splitlines()), "no reason given")[:300]
        remedy = DOWNLOAD if isinstance(error, OSError) else "the fault lies in aac-metrics or what it runs"
        scores.lacking[name] = f"{type(error).__name__}: {reason}; {remedy}"
    finally:
        logger.setLevel(level)


def _add(scores: CaptionScores, name: str, outcome: Any) -> None:
    corpus, clips = outcome
    if math.isnan(float(corpus[name])):
        raise ValueError(f"{name} of some clip is not a number")
    scores.values[name] = float(corpus[name])
    scores.per_clip[name] = tuple(float(value) for value in clips[name])


def _spice(candidates: list[str], references: list[list[str]]) -> Any:
    from aac_metrics.functional import spice

    return spice(candidates, references)


def _meteor(candidates: list[str], references: list[list[str]]) -> Any:
    from aac_metrics.functional import meteor

    return meteor(candidates, references)


def _fense(candidates: list[str], references: list[list[str]]) -> Any:
    from aac_metrics.functional import fense

    return fense(candidates, references)


def _fer(candidates: list[str], references: list[list[str]]) -> Any:
    from aac_metrics.functional import fer

    return fer(candidates)
