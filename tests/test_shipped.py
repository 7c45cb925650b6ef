"""The model and the samples that ship with nota, run as a newcomer runs them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.networks import load_network
from helpers.paths import REPOSITORY, SHIPPED
from nota_cli.data.annotation import read_annotation
from nota_cli.data.corpora.esc10 import caption_label
from nota_cli.quantization.gptq import count_quantized
from nota_cli.submission import read_records, validate


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_sizes_are_as_promised() -> None:
    assert size(SHIPPED) <= 20e6
    assert size(SHIPPED / "samples") <= 1e6
    for file in (
        SHIPPED / "recipe.yaml",
        SHIPPED / "adapter" / "adapter_config.json",
        SHIPPED / "decoder" / "config.json",
    ):
        assert str(REPOSITORY) not in file.read_text()
        assert not re.search(r':\s*"?/', file.read_text()), f"{file.name} names a path of the machine it was made on"


def test_the_decoder_is_four_bit_gptq() -> None:
    found = count_quantized(load_network(SHIPPED).decoder.model)
    assert found["bits"] == 4
    assert found["quantized"] == 3 * 7  # every linear layer of every block
    assert found["linear"] == 1  # the output head, tied to the embedding


@pytest.mark.parametrize("task", ["asr", "aac"])
def test_infer_with_no_other_flag_answers_the_samples_without_a_compiler(task: str, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    bare = {"PATH": str(tmp_path), "HOME": str(tmp_path), "CC": "/none/cc", "CXX": "/none/c++", "HF_HUB_OFFLINE": "1"}
    kept = {name: value for name, value in os.environ.items() if name in {"LD_LIBRARY_PATH", "PYTHONPATH", "TMPDIR"}}
    done = subprocess.run(
        [sys.executable, "-m", "nota_cli.cli", "infer", "--task", task, "--out", str(out)],
        cwd=REPOSITORY,
        env={**kept, **bare},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "4-bit GPTQ decoder on the blockwise kernel" in done.stderr
    assert "--recipe gemma2-2b-gptq" in done.stderr
    annotation = SHIPPED / "samples" / f"{task}.json"
    assert not validate(out, annotation)
    texts = {record.fields[0]: record.fields[1] for record in read_records(out)[0][1:]}
    rows = read_annotation(annotation)
    if task == "asr":
        right = sum(texts[row.id or ""] == row.text for row in rows)
    else:
        right = sum(caption_label(texts[row.id or ""]) == row.label for row in rows)
    assert right >= 4, texts


def test_the_metrics_that_the_card_quotes_are_in_the_folder() -> None:
    metrics = json.loads((SHIPPED / "metrics.json").read_text())
    assert {"wer", "wer_as_written", "right_captions"} <= set(metrics)
