"""Processes that train together. They fork from one server that has imported everything: a start takes no seconds."""

import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from helpers.ranks import environment

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["nota_cli.training.loop", "transformers.models.gemma2.modeling_gemma2"])
PATIENCE = 600.0
"""Seconds that a test waits for what is bound to happen: a busy machine is slow, and a run that hangs never ends."""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def start(
    recipe: Path,
    folder: Path,
    settings: Sequence[str],
    processes: int,
    variables: Mapping[str, str] | None = None,
    kill: tuple[int, int, float] | None = None,
    **options: Any,
) -> list[BaseProcess]:
    """Begin training with so many processes that share each batch; what each says is in `FOLDER.rank`.

    With `kill` the process of a rank is killed so many seconds after so many more steps are saved.
    """
    port, ranks = free_port(), []
    for rank in range(processes):
        given = {"ACCELERATE_USE_CPU": "true", **(variables or {})}
        if processes > 1:
            given |= environment(rank, processes, port)
        said = folder.with_name(f"{folder.name}.{rank}")
        own = kill[1:] if kill is not None and kill[0] == rank else None
        process = SERVER.Process(target=_train, args=(recipe, folder, list(settings), given, said, own, options))
        process.start()
        ranks.append(process)
    return ranks


def finish(ranks: list[BaseProcess], folder: Path) -> None:
    """Wait for them all."""
    try:
        for process in ranks:
            process.join(PATIENCE)
        said = [file.read_text() for file in sorted(folder.parent.glob(f"{folder.name}.[0-9]"))]
        assert [process.exitcode for process in ranks] == [0] * len(ranks), said
    finally:
        for process in ranks:
            process.kill()


def saved_step(folder: Path) -> int:
    """The step that a run's state is of; 0 while there is none."""
    try:
        with safe_open(folder / "trainer" / "state.safetensors", framework="pt") as opened:
            return int(json.loads(opened.metadata()["nota"])["step"])
    except (FileNotFoundError, SafetensorError):
        return 0


def _kill(folder: Path, steps: int, delay: float) -> None:
    goal = saved_step(folder) + steps
    while saved_step(folder) < goal:
        time.sleep(0.01)
    time.sleep(delay)
    os.kill(os.getpid(), signal.SIGKILL)


def _train(
    recipe: Path,
    folder: Path,
    settings: list[str],
    variables: dict[str, str],
    said: Path,
    kill: tuple[int, float] | None,
    options: dict[str, Any],
) -> None:
    with said.open("w", buffering=1) as sys.stderr:
        for name in ("RANK", "WORLD_SIZE"):
            os.environ.pop(name, None)
        os.environ.update(variables)
        import torch

        import nota_cli.training.loop as loop
        from nota_cli.errors import NotaError
        from nota_cli.recipe.load import load_recipe

        torch.set_num_threads(1)
        loop.LOG_EVERY = 1
        if kill is not None:  # from within: another process, on a busy machine, may look when the run is over
            threading.Thread(target=_kill, args=(folder, *kill), daemon=True).start()
        try:
            loop.train(load_recipe(str(recipe), settings), folder, **options)
        except NotaError as error:
            print(error, file=sys.stderr)
            os._exit(1)
        except BaseException:
            traceback.print_exc()
            os._exit(3)
