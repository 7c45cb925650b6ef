"""Several processes that share one run: who they are, what rank 0 tells the others, and who has been lost."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from nota_cli.errors import DataError, NotaError, UsageError

POLL_SECONDS = 0.1
BEAT_SECONDS = 2.0
LOST_SECONDS = 120.0  # without a sign of life; loading weights may keep a process from giving one for a while
MEET_SECONDS = 600.0  # for all processes to have started
LINGER_SECONDS = 5.0  # that a process which failed waits, so that the others can tell the reason before they are ended
PIECE = 1 << 20  # bytes of a message sent at once


class StoppedElsewhereError(NotaError):
    """Another process of the run has failed."""


class Ranks:
    """This process among those of a run; with one process alone nothing is ever waited for.

    They meet at the key-value store of the launcher (`torchrun`, `accelerate launch`); no collective operation is used,
    so that they may be as far apart in their work as they like.

    Args:
        rank: this process's number.
        world: how many there are.
        store: torch's store; None for one process.
    """

    def __init__(self, rank: int = 0, world: int = 1, store: Any = None) -> None:
        self.rank, self.world, self._store = rank, world, store
        self._ended = threading.Event()

    @classmethod
    def from_environment(cls) -> "Ranks":
        """As the launcher says by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; one process without a launcher.

        Raises:
            UsageError: these are not what they should be.
            NotaError: the processes do not meet.
        """
        world = os.environ.get("WORLD_SIZE", "1")
        if world == "1":
            return cls()
        given = {name: os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
        wrong = [name for name, value in given.items() if not (value.isdigit() or value and name == "MASTER_ADDR")]
        if wrong:
            raise UsageError(
                f"WORLD_SIZE is {world}, and {' and '.join(wrong)} not what torchrun sets: start several processes "
                "with torchrun or accelerate launch, or unset WORLD_SIZE"
            )
        rank, count = int(given["RANK"]), int(world)
        where = given["MASTER_ADDR"], int(given["MASTER_PORT"])
        from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # not in its __all__
        from torch.distributed.rendezvous import rendezvous

        try:
            store, _, _ = next(rendezvous("env://", rank, count, timeout=timedelta(seconds=MEET_SECONDS)))
        except (RuntimeError, ValueError) as error:
            raise NotaError(
                f"rank {rank} of {count} does not find the others at {where[0]}:{where[1]}: {error}"
            ) from error
        again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return cls(rank, count, PrefixStore(f"nota infer {again}", store))

    @property
    def others(self) -> range:
        """All ranks but 0."""
        return range(1, self.world)

    @contextmanager
    def together(self) -> Iterator["Ranks"]:
        """Inside, the others can see that this process lives, and hear of it if it fails."""
        if self._store is None:
            yield self
            return
        threading.Thread(target=self._beat, daemon=True).start()
        try:
            yield self
        except StoppedElsewhereError:
            raise
        except BaseException as error:
            self._fail(str(error) or type(error).__name__)
            if isinstance(error, NotaError):
                kind = DataError if isinstance(error, DataError) else type(error)  # some of these take more than words
                raise kind(f"rank {self.rank}: {error}") from error
            raise
        finally:
            self._ended.set()

    def send(self, name: str, data: bytes) -> None:
        """Lay down what another process waits for by this name."""
        if self._store is None:
            return
        pieces = [data[start : start + PIECE] for start in range(0, len(data), PIECE)]
        for number, piece in enumerate(pieces):
            self._ask("set", f"{name}.{number}", piece)
        self._ask("set", name, str(len(pieces)))

    def receive(self, name: str, sender: int) -> bytes:
        """Wait for what another process lays down.

        Raises:
            StoppedElsewhereError: a process has failed, or the sender has given no sign of life for two minutes.
        """
        beat, last_beat = b"", time.monotonic()
        while not self._ask("check", [name]):
            self.check()
            current = self._ask("get", f"beat.{sender}") if self._ask("check", [f"beat.{sender}"]) else b""
            if current != beat:
                beat, last_beat = current, time.monotonic()
            elif time.monotonic() - last_beat > LOST_SECONDS:
                raise StoppedElsewhereError(
                    f"rank {sender} has given no sign of life for {LOST_SECONDS:.0f} s. What it and the others have "
                    "finished is kept: the same command goes on with the rest."
                )
            time.sleep(POLL_SECONDS)
        count = int(self._ask("get", name))
        return b"".join(self._ask("get", f"{name}.{number}") for number in range(count))

    def check(self) -> None:
        """Stop if another process has.

        Raises:
            StoppedElsewhereError: it has; the message says which and why.
        """
        if self._store is None or not self._ask("check", ["failed"]):
            return
        rank, _, message = self._ask("get", "failed").decode("utf-8", "replace").partition(" ")
        if int(rank) == self.rank:
            return
        with suppress(RuntimeError):
            self._store.set(f"stopped.{self.rank}", "1")
        first = (message.splitlines() or ["no reason given"])[0]
        raise StoppedElsewhereError(f"rank {self.rank} stops because rank {rank} did: {first}")

    def _fail(self, message: str) -> None:
        """Tell the others, and give them a moment to hear it."""
        with suppress(RuntimeError):
            if self._store.check(["failed"]):
                self._store.set(f"stopped.{self.rank}", "1")
                return
            self._store.set("failed", f"{self.rank} {message}".encode("utf-8", "replace"))
            wanted = [f"stopped.{rank}" for rank in range(self.world) if rank != self.rank]
            until = time.monotonic() + LINGER_SECONDS
            while not self._store.check(wanted) and time.monotonic() < until:
                time.sleep(POLL_SECONDS)

    def _beat(self) -> None:
        count = 0
        with suppress(RuntimeError):  # the store has gone with the process that held it; who needs it will say so
            while not self._ended.wait(BEAT_SECONDS):
                count += 1
                self._store.set(f"beat.{self.rank}", str(count))

    def _ask(self, what: str, *arguments: Any) -> Any:
        try:
            return getattr(self._store, what)(*arguments)
        except RuntimeError as error:
            raise StoppedElsewhereError(
                f"rank {self.rank} has lost the launcher, or rank 0, at which the processes meet. What is finished is "
                "kept: the same command goes on with the rest."
            ) from error
