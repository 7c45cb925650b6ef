"""The ONNX runtime: an export's graphs in onnxruntime, fed and read in numpy; no torch."""

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nota_cli.cores import usable_cores
from nota_cli.errors import CheckpointError, NotaError
from nota_cli.generation.array_search import Decoder
from nota_cli.generation.runtimes.base import Span
from nota_cli.prompts import Query
from nota_cli.recipe.exported import MANIFEST, Manifest, check_file

Array = np.ndarray[Any, Any]

LOWEST = np.float32(np.finfo(np.float32).min)  # added to the score of a place that may not be seen
ENCODERS = ("speech_encoder", "audio_encoder")
TABLE, SCALES = "embedding.npy", "embedding_scale.npy"
M_MMAP_THRESHOLD = -3  # from glibc's malloc.h
LARGE = 64 * 2**20  # bytes of a graph


class TokenTable:
    """The token table of an export, as `embedding.npy` has it: numbers, or what a graph's weights are packed as.

    Args:
        folder: the export's.
        manifest: what it holds.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._table = np.load(folder / TABLE, mmap_mode="r")
        self._scale = np.load(folder / SCALES, mmap_mode="r") if SCALES in manifest.files else None
        self._manifest = manifest

    def __call__(self, ids: Array) -> Array:
        """Token ids of any shape to embeddings, float32."""
        rows: Array = self._table[ids]
        if self._scale is None:
            return rows.astype(np.float32)
        values: Array
        if rows.dtype == np.int8:
            values = rows.astype(np.float32) * self._scale[ids]
            return values
        bits, sizes = self._manifest.bits["embedding"], self._manifest.decoder
        if bits == 4:  # two in a byte, the lower half first
            rows = np.stack([rows & 15, rows >> 4], axis=-1).reshape(*rows.shape[:-1], -1)
        levels = rows.astype(np.float32) - np.float32(2 ** (bits - 1))
        blocks = levels * (self._scale[ids] * np.float32(sizes.token_scale))[..., None]
        values = blocks.reshape(*ids.shape, -1)[..., : sizes.width]
        return values


class Graphs:
    """An export's sessions, opened one by one.

    Args:
        folder: the export's.
        manifest: what it holds.
        table: token ids of any shape to embeddings, float32.

    Attributes:
        on_part: called with a part's name and a function that runs it, and gives what that returns.
    """

    def __init__(self, folder: Path, manifest: Manifest, table: Callable[[Array], Array]) -> None:
        self.manifest, self.embed = manifest, table
        names = [name for name in (*ENCODERS, "connector", "decoder") if f"{name}.onnx" in manifest.files]
        self._sessions = {name: _session(folder / f"{name}.onnx", manifest) for name in names}
        self._options = {name: _returning_memory() for name in names if _has_arena(folder / f"{name}.onnx")}
        self.on_part: Callable[[str, Callable[[], Any]], Any] = lambda name, run: run()

    def states(self, part: str, features: Array) -> Array:
        """One clip's features `[1, ...]` through an encoder: `[1, states, width]`."""
        return self._run(part, {"features": features})[0]

    def connect(self, speech: Array, audio: Array | None, *, clip: bool) -> Array:
        """One clip's states to embeddings of the decoder's width `[tokens, width]`.

        Args:
            speech: `[1, states, width]`.
            audio: the same of the audio encoder, or None.
            clip: whether the clip has its own length, so that the last, part-filled window counts.
        """
        sizes = self.manifest.windows
        length = max(speech.shape[1], 0 if audio is None else audio.shape[1])
        if clip or sizes.keeps_rest:
            full = (-(-length // sizes.stride) - 1) * sizes.stride + sizes.window
        else:
            full = (length - sizes.window) // sizes.stride * sizes.stride + sizes.window
        # Without a length of its own, zeros behind the sound count, as they did in training.
        inputs = {"real": np.arange(full)[None] < (length if clip else full)}
        for name, states in (("speech", speech), ("audio", audio)):
            if states is not None:
                padded = np.zeros((1, full, states.shape[2]), dtype=np.float32)
                count = min(full, states.shape[1])
                padded[:, :count] = states[:, :count]
                inputs |= {name: padded, f"{name}_mask": np.arange(full)[None] < count}
        embeds: Array = self._run("connector", inputs)[0][0]
        return embeds

    def decode(self, inputs: dict[str, Array]) -> list[Array]:
        """The decoder's outputs: logits `[batch, vocabulary]`, and keys and values, layer by layer."""
        return self._run("decoder", inputs)

    def _run(self, part: str, inputs: dict[str, Array]) -> list[Array]:
        options = self._options.get(part)
        outputs: list[Array] = self.on_part(part, lambda: self._sessions[part].run(None, inputs, options))
        return outputs


class CachedDecoder:
    """A batch in the decoder: keys and values of what it has seen (`nota_cli.generation.array_search.Decoder`).

    Args:
        graphs: the export's.
    """

    def __init__(self, graphs: Graphs) -> None:
        self._graphs, self._sizes = graphs, graphs.manifest.decoder
        self._past: list[Array] = []
        self._real: Array = np.zeros((0, 0), dtype=np.bool_)
        self._next: Array = np.zeros(0, dtype=np.int64)

    def prefill(self, embeds: Array, mask: Array) -> Array:
        """Left-padded prompts `[batch, length, width]` and their mask `[batch, length]` to logits."""
        sizes = self._sizes
        empty = np.zeros((len(embeds), sizes.heads, 0, sizes.head_width), dtype=np.float32)
        self._past = [empty] * (2 * sizes.layers)
        self._real = np.zeros((len(embeds), 0), dtype=np.bool_)
        order = mask.astype(np.int64).cumsum(axis=1)
        self._next = order[:, -1]
        return self._feed(embeds, np.maximum(order - 1, 0), mask.astype(np.bool_))

    def step(self, tokens: Array) -> Array:
        """One token more in every row."""
        positions = self._next[:, None]
        self._next = self._next + 1
        return self._feed(self._graphs.embed(tokens[:, None]), positions, np.ones((len(tokens), 1), dtype=np.bool_))

    def choose(self, rows: Array) -> None:
        """Go on with these rows of the batch."""
        if len(rows) == len(self._real) and np.array_equal(rows, np.arange(len(rows))):
            return
        self._past = [part[rows] for part in self._past]
        self._real, self._next = self._real[rows], self._next[rows]

    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return sum(part.nbytes for part in self._past)

    def _feed(self, embeds: Array, positions: Array, real: Array) -> Array:
        known, new = self._real.shape[1], embeds.shape[1]
        self._real = np.concatenate([self._real, real], axis=1)
        keys = np.arange(known + new)
        queries = keys[known:, None]
        # Padding looks at itself alone, as in torch.
        seen = (keys <= queries) & self._real[:, None, None, :] | (keys == queries)
        inputs = {"embeds": embeds, "positions": positions, "masks_0": _additive(seen)}
        window = self._sizes.sliding_window
        if window is not None:
            inputs["masks_1"] = _additive(seen & (keys > queries - window))
        inputs |= {f"past_{index}": part for index, part in enumerate(self._past)}
        logits, *self._past = self._graphs.decode(inputs)
        return logits


class ExportedModel(Protocol):
    """What the runtime measures: a model of an export."""

    graphs: Graphs

    def prompt_embeds(self, features: Any, queries: list[Query]) -> tuple[Array, Array]: ...  # noqa: D102


class CachingDecoder(Decoder, Protocol):
    """A decoder that takes prompts, and knows the size of its cache."""

    def prefill(self, embeds: Array, mask: Array) -> Array: ...  # noqa: D102

    def nbytes(self) -> int: ...  # noqa: D102


class OnnxRuntime:
    """An export by the token (`nota_cli.generation.runtimes.base.Runtime`).

    Args:
        model: the export.
        decoder: its decoder, for one sequence.
    """

    name, decoding, autocast = "onnx", "growing cache", False

    def __init__(self, model: ExportedModel, decoder: CachingDecoder) -> None:
        self._model, self._decoder = model, decoder
        self._token: Array = np.zeros(1, dtype=np.int64)

    def prompt(self, features: Any, query: Query) -> tuple[Array, Array]:
        """Embeddings `[1, length, width]` and their mask `[1, length]`."""
        return self._model.prompt_embeds(features, [query])

    def prefill(self, prompt: tuple[Array, Array], query: Query) -> None:
        """Prefill, and the first token."""
        self._token = self._decoder.prefill(*prompt).argmax(axis=1)

    def step(self) -> None:
        """One token more."""
        self._token = self._decoder.step(self._token).argmax(axis=1)

    def cache_bytes(self) -> int:
        """Bytes of keys and values."""
        return self._decoder.nbytes()

    @contextmanager
    def watch(
        self, read: Callable[[], Any], on_part: Callable[[str], None] = lambda name: None
    ) -> Iterator[list[Span]]:
        """Readings before and after each encoder and the connector."""
        spans: list[Span] = []
        graphs = self._model.graphs
        plain = graphs.on_part

        def watched(name: str, run: Callable[[], Any]) -> Any:
            if name == "decoder":
                return run()
            on_part(name)
            begun = read()
            result = run()
            spans.append((name, begun, read()))
            on_part("decoder")
            return result

        graphs.on_part = watched
        try:
            yield spans
        finally:
            graphs.on_part = plain


def _additive(seen: Array) -> Array:
    mask: Array = np.where(seen, np.float32(0.0), LOWEST)
    return mask


def return_large_blocks() -> None:
    """Have glibc give freed blocks of a megabyte or more back at once, where it is the C library.

    It would put ever larger ones on its heap instead, where those still in use keep freed ones between them: a
    graph of 0.7 GB took 1.9 GB to load and run, and takes 1.1 GB this way.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**20)


def _is_large(file: Path) -> bool:
    """Whether a graph's memory is worth time; one that is not there is not, and opening it says so."""
    return file.is_file() and file.stat().st_size >= LARGE


def _has_arena(file: Path) -> bool:
    """Whether a graph is run with onnxruntime's arena, which keeps the largest of every size that it has seen.

    A large encoder's is emptied after each clip. That would cost a small one more than it saves, and a decoder's would
    have to be emptied after each token.
    """
    return file.stem != "decoder" and _is_large(file)


def _returning_memory() -> Any:
    """Options of a run after which the arena is emptied."""
    from onnxruntime import RunOptions

    options = RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def _session(file: Path, manifest: Manifest) -> Any:
    """A graph, ready to run.

    Raises:
        NotaError: onnxruntime is not installed.
        CheckpointError: it cannot run the graph; the message has why.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise NotaError("onnxruntime is not installed; exports need it: pip install 'nota-cli[onnx]'") from error
    if _is_large(file):
        return_large_blocks()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.enable_cpu_mem_arena = _has_arena(file)
    options.enable_mem_pattern = False  # of use where all shapes stay the same
    options.log_severity_level = 3
    # Threads that spin while they wait slow whatever else runs on the machine, tenfold where cores are few.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds have no common base
        check_file(file, manifest.files[file.name], whole=True)
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{file}: onnxruntime {onnxruntime.__version__} cannot load it, though it is as exported (opset "
            f"{manifest.opset}, by {MANIFEST}): {reason}. Install a newer onnxruntime, or export with this machine's."
        ) from error
