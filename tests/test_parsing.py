"""Strict YAML and JSON: nothing is dropped, nothing turns into something else."""

import json
import math

import pytest

from nota_cli.parsing import ParseError, decode, dump_yaml, parse_json, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"),
        ("on", "on"),
        ("yes", "yes"),
        ("No", "No"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("'true'", "true"),
        ("1e-5", 1e-5),
        ("1.5E+3", 1500.0),
        (".5", 0.5),
        ("012", 12),
        ("0o17", 15),
        ("0x1F", 31),
        ("0b1", "0b1"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("190:20:30", "190:20:30"),
        ("2026-11-25", "2026-11-25"),
        ("~", None),
        ("~/data", "~/data"),
        ("", None),
        ("-.inf", -math.inf),
        ("=", "="),
    ],
)
def test_scalars_are_yaml_1_2(text, value):
    parsed = parse_yaml(f"key: {text}\n")["key"]
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("a: 1\nb: 2\na: 3\n", "'a'", (1, 3)),
        ("x: {a: [1, {b: 1,\n b: 2}]}\n", "'b'", (1, 2)),
        ("x:\n  y:\n    z: 1\n    'z': 2\n", "'z'", (3, 4)),
        ("off: 1\n\n'off': 2\n", "'off'", (1, 3)),
        ("i: &i {a: 1}\nj:\n  <<: *i\n  <<: *i\n", "'<<'", (3, 4)),
        ("j:\n  <<: {a: 1, a: 2}\n", "'a'", (2, 2)),
    ],
)
def test_a_key_written_twice_is_named_with_both_lines(text, key, lines):
    with pytest.raises(ParseError) as caught:
        parse_yaml(text)
    assert f"the key {key} is on line {lines[0]} and again on line {lines[1]}" in str(caught.value)


def test_merge_keys_and_anchors_work_and_own_keys_win():
    text = "base: &b {x: 1, y: 2}\nover: {<<: *b, y: 3}\nagain: &a {<<: *b, y: 4}\nthird: {<<: *a}\nlist: [*b, *b]\n"
    parsed = parse_yaml(text)
    assert parsed["over"] == {"x": 1, "y": 3}
    assert parsed["third"] == {"x": 1, "y": 4}
    assert parsed["list"] == [{"x": 1, "y": 2}] * 2


@pytest.mark.parametrize(
    "text",
    [
        "1: a",
        "true: a",
        "null: a",
        "? [a]\n: 1",
        "a: &a [*a]",
        "a: &a {b: *a}",
        "a: &a {<<: *a}",
        "a: {<<: 1}",
        "a: 1\n---\nb: 2",
        "a: !!python/x",
    ],
)
def test_what_a_recipe_cannot_mean_is_refused(text):
    with pytest.raises(ParseError):
        parse_yaml(text)


@pytest.mark.parametrize(
    "value", ["1e-5", "off", "yes", "012", "1_000", "0o17", "12:30", "2026-11-25", "<<", "null", "", "=", 1e-5, 1e22, 3]
)
def test_what_is_written_reads_back(value):
    again = parse_yaml(dump_yaml({"key": value}))["key"]
    assert again == value
    assert type(again) is type(value)


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ('{"a": 1,\n "a": 2}', ["'a' is on line 1 and again on line 2"]),
        (
            '[{"x": {"b\\u0061": 1,\n\n "ba": 2}, "s": "{\\"a\\": 1, \\"a\\": 2"}]',
            ["'ba' is on line 1 and again on line 3"],
        ),
        ('{"a": [{"b": 1, "b": 2}], "a": []}', ["'b' is on line 1", "'a' is on line 1"]),
        ('{"a": NaN,\n "b": [-Infinity]}', ["NaN on line 1", "-Infinity on line 2"]),
    ],
)
def test_json_that_a_parser_would_pass_over_is_refused_with_its_lines(text, problems):
    with pytest.raises(ParseError) as caught:
        parse_json(text)
    assert all(problem in str(caught.value) for problem in problems)


def test_good_json_is_as_it_is():
    value = {"a": [1, 2.5, None, True, "NaN", {"a": {"a": "a: a"}}], "b\\": "\ud800"}
    assert parse_json(json.dumps(value)) == value
    assert math.isnan(parse_json("[NaN]", allow_nan=True)[0])
    with pytest.raises(ParseError, match="and 15 more"):
        parse_json("[" + ", ".join(['{"a": 1, "a": 2}'] * 25) + "]")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings_that_json_allows(encoding):
    assert decode('{"a": "강"}'.encode(encoding)) == '{"a": "강"}'
