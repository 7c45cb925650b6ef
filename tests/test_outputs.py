"""Outputs held against inputs, without a command."""

from pathlib import Path

import pytest

from nota_cli.errors import UsageError
from nota_cli.outputs import Input, Output, check_outputs


def test_what_is_no_input_may_be_written(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.json").write_text("{}")
    (tmp_path / "o").write_text("old")
    inputs = [Input("the annotation", tmp_path / "in" / "a.json"), Input("the corpus", tmp_path / "in")]
    inputs += [Input("what is not there", tmp_path / "absent"), Input("the weights", tmp_path / "nowhere", whole=True)]
    outputs = [Output("--out", tmp_path / "o"), Output("--out", tmp_path / "in" / "new"), Output("--out", Path("a\0b"))]
    check_outputs(outputs, inputs)
    with pytest.raises(UsageError, match="is what is not there"):  # a name that both will have
        check_outputs([Output("--out", tmp_path / "in" / ".." / "absent")], inputs)
    with pytest.raises(UsageError, match="holds the annotation"):
        check_outputs([Output("--out", tmp_path / "in", replaced=True)], inputs[:1])
