"""`nota demo` before the page is served; tests/demo has the page itself."""

import importlib.util
import socket
from collections.abc import Callable

import pytest

Nota = Callable[..., int]
Capture = pytest.CaptureFixture[str]


def test_without_gradio_it_says_how_to_get_it(nota: Nota, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gradio" else find(name))
    assert nota("demo") == 2
    assert "pip install 'nota-cli[demo]'" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("--port", "0"), ("--max-seconds", "0"), ("--max-megabytes", "0")])
def test_values_that_cannot_be(arguments: tuple[str, str], nota: Nota, capsys: Capture) -> None:
    assert nota("demo", *arguments) == 2
    assert arguments[0] in capsys.readouterr().err


def test_a_port_that_is_taken_and_an_address_of_another_machine(nota: Nota, capsys: Capture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert nota("demo", "--port", port) == 2
    error = capsys.readouterr().err
    assert f"127.0.0.1, port {port}" in error
    assert "Choose another --port" in error
    assert nota("demo", "--host", "203.0.113.1") == 2
    assert "Choose another --host" in capsys.readouterr().err
