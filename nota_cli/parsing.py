"""YAML and JSON that people write, read strictly: nothing in a file is dropped or turned into something else."""

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

MOST_PROBLEMS = 10  # of duplicate keys named in one message

MERGE = "tag:yaml.org,2002:merge"
_BOOLEAN = re.compile(r"(?:true|True|TRUE|false|False|FALSE)$")
_NULL = re.compile(r"(?:~|null|Null|NULL|)$")
_INTEGER = re.compile(r"[-+]?[0-9]+$|0o[0-7]+$|0x[0-9a-fA-F]+$")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)
_SCALARS = [
    ("tag:yaml.org,2002:bool", _BOOLEAN, "tTfF"),
    ("tag:yaml.org,2002:null", _NULL, ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:int", _INTEGER, "-+0123456789"),
    ("tag:yaml.org,2002:float", _FLOAT, "-+.0123456789"),
    (MERGE, re.compile("<<$"), "<"),
]
"""YAML 1.2's core schema, tried in this order, and merge keys, which 1.2 has dropped and people use."""

_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|-?(?:NaN|Infinity)\b')


def decode(data: bytes) -> str:
    """The text of a file's bytes: UTF-8, or UTF-16 or UTF-32 as JSON allows them, with or without a byte order mark.

    Raises:
        UnicodeDecodeError: none of them.
    """
    encoding = json.detect_encoding(data)
    return data.decode("utf-8-sig" if encoding == "utf-8" else encoding)


class ParseError(ValueError):
    """A file's text is not what it should be; the message names the line, or lines, and the key."""


def parse_yaml(text: str) -> Any:
    """One YAML 1.2 document.

    `off`, `on`, `yes` and `no` are texts, `true` and `false` are booleans; `1e-5` is a number, `012` is 12, and
    `1_000`, `12:30` and dates are texts. Anchors and merge keys (`<<`) work as they do in YAML 1.1.

    Raises:
        ParseError: not YAML, more than one document, a mapping with the same key twice (both lines are named), a key
            that is no text, or a node that contains itself.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 a SafeLoader
    except yaml.YAMLError as error:
        raise ParseError(str(error)) from error
    except RecursionError as error:
        raise ParseError("the YAML is nested too deeply") from error


def dump_yaml(values: Any, *, ascii_only: bool = False) -> str:
    """YAML that `parse_yaml` reads back, and so do readers of YAML 1.1: texts that either takes for more are quoted.

    Args:
        values: what to write.
        ascii_only: write other characters as escapes.
    """
    return str(yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=not ascii_only))


def parse_json(text: str, *, allow_nan: bool = False) -> Any:
    """One JSON document.

    Args:
        text: the document, without a byte order mark.
        allow_nan: whether `NaN` and `Infinity`, which Python writes and JSON does not have, are taken.

    Raises:
        json.JSONDecodeError: not JSON.
        ParseError: an object with the same key twice, at whatever depth (the lines are named), or NaN or Infinity.
        ValueError: a number of more digits than Python converts.
        RecursionError: nested too deeply.
    """
    wrong = False

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal wrong
        mapping = dict(items)
        wrong |= len(mapping) < len(items)
        return mapping

    def constant(name: str) -> float:
        nonlocal wrong
        wrong |= not allow_nan
        return float(name.replace("Infinity", "inf"))

    value = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    if wrong:
        problems = list(_json_problems(text, allow_nan))
        more = len(problems) - MOST_PROBLEMS
        raise ParseError("; ".join(problems[:MOST_PROBLEMS]) + (f"; and {more} more" if more > 0 else ""))
    return value


def _json_problems(text: str, allow_nan: bool) -> Iterator[str]:
    """Where a document that is JSON otherwise has a key twice or a number that JSON does not have."""
    open_objects: list[dict[str, int] | None] = []  # key to line; None for a list
    line, seen = 1, 0
    tokens = [(match[0], match.start()) for match in _JSON_TOKEN.finditer(text)]
    for (token, start), (following, _) in zip(tokens, [*tokens[1:], ("", 0)], strict=True):
        line, seen = line + text.count("\n", seen, start), start
        if token in "{[":
            open_objects.append({} if token == "{" else None)
        elif token in "}]":
            open_objects.pop()
        elif token[0] == '"' and following == ":" and open_objects and open_objects[-1] is not None:
            key, keys = json.loads(token), open_objects[-1]
            if key in keys:
                yield f"the key {key!r} is on line {keys[key]} and again on line {line}; keep one of them"
            keys.setdefault(key, line)
        elif token[-1] in "Ny" and not allow_nan:
            yield f"{token} on line {line} is no JSON; write a number, null or leave the key out"


class _Loader(yaml.SafeLoader):
    """PyYAML with YAML 1.2's scalars, and mappings that refuse what a dict would swallow."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self.flattened: dict[int, bool] = {}  # nodes by id; False while one is being flattened

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Lay merge keys out: a mapping's own keys win, then those of the first that it merges.

        PyYAML's own lets the innermost mapping win where one that is merged merges another one.
        """
        if not self.flattened.setdefault(id(node), True):
            raise ParseError(f"line {node.start_mark.line + 1}: the mapping merges itself")
        own = _own_keys(node)
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        self.flattened[id(node)] = False
        for key_node, value_node in node.value:
            if key_node.tag != MERGE:
                continue
            for source in value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]:
                if not isinstance(source, yaml.MappingNode):
                    raise ParseError(f"line {key_node.start_mark.line + 1}: << wants a mapping, or a list of them")
                self.flatten_mapping(source)
                for pair in source.value:
                    merged.setdefault(pair[0].value, pair)
        self.flattened[id(node)] = True
        node.value = [*(pair for key, pair in merged.items() if key not in own), *own.values()]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        return super().construct_mapping(node, deep=True)

    def construct_yaml_map(self, node: yaml.MappingNode) -> dict[Any, Any]:  # type: ignore[override]  # may give either
        return self.construct_mapping(node)

    def construct_yaml_seq(self, node: yaml.SequenceNode) -> list[Any]:  # type: ignore[override]  # as above
        return self.construct_sequence(node, deep=True)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = str(node.value)
        return int(text, 0 if text[:2] in ("0o", "0x") else 10)


def _own_keys(node: yaml.MappingNode) -> dict[str, tuple[yaml.Node, yaml.Node]]:
    """A mapping's pairs by key, merge keys left out.

    Raises:
        ParseError: a key is there twice, or is no text.
    """
    lines: dict[str, int] = {}
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        if key_node.tag not in ("tag:yaml.org,2002:str", MERGE):
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "that is a list or a mapping"
            raise ParseError(f"line {line}: the key {key} is no text; put it in quotes")
        key = key_node.value
        if key in lines:
            raise ParseError(f"the key {key!r} is on line {lines[key]} and again on line {line}; keep one of them")
        lines[key] = line
    return {pair[0].value: pair for pair in node.value if pair[0].tag != MERGE}


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 or 1.2 would take for something else than the text that it is."""


for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_tag, _pattern, list(_first))
    _Dumper.add_implicit_resolver(_tag, _pattern, list(_first))
for _kind in ("map", "seq", "int"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", getattr(_Loader, f"construct_yaml_{_kind}"))
