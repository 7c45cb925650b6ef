"""What `nota infer` does, step by step: rank 0 leads, other processes, if there are any, follow."""

import json
import os
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any

from nota_cli.console import progress, say, warn
from nota_cli.data.annotation import Row, clip_paths, row_id
from nota_cli.data.audio.clip import duration
from nota_cli.data.audio.headers import Scan, bad_file, scan
from nota_cli.errors import AudioError, NotaError, RecipeError, UsageError, listing
from nota_cli.files import check_writable, sweep, write_text
from nota_cli.imports import heavy_imports
from nota_cli.inference.bad_audio import Policy
from nota_cli.inference.batching import longest_first
from nota_cli.inference.distributed import Ranks
from nota_cli.inference.journal import DONE, SKIPPED, Entry, Journal, differences, journal_path, rank_journals
from nota_cli.inference.options import InferOptions
from nota_cli.inference.outputs import (
    check_run_outputs,
    check_submission,
    finished_report,
    refuse_other_run,
    warn_of_rows,
)
from nota_cli.inference.provenance import MACHINE_LOCAL_KEYS, file_hash, recordings_hash, run_provenance
from nota_cli.inference.report import Facts, Stages, report_path, run_report, summary
from nota_cli.inference.results import Outcomes, Result, Tally, timed
from nota_cli.inference.selection import Selection, select_annotation, select_recordings
from nota_cli.models.device import check_device_name, device_for
from nota_cli.models.families.base import AudioModel
from nota_cli.models.loading import load
from nota_cli.models.parts import compute_types
from nota_cli.recipe.families import family_of
from nota_cli.recipe.schema import BaseRecipe
from nota_cli.submission import write_submission

VISIBLE_SECONDS = 30.0  # that a shared folder may take to show what another machine has written


@dataclass(frozen=True)
class _Share:
    """Rows that one process answers, longest clip first, and the seconds of each one's clip."""

    rows: Sequence[int]
    seconds: Sequence[float]


@dataclass
class _Run:
    """What all processes of a run know."""

    recipe: BaseRecipe
    options: InferOptions
    selection: Selection
    out: Path
    ranks: Ranks
    started: float = field(default_factory=time.monotonic)
    stages: Stages = field(default_factory=Stages)

    @property
    def rows(self) -> list[Row]:
        return self.selection.rows

    @property
    def audio_root(self) -> Path:
        return self.selection.audio_root

    @cached_property
    def device(self) -> str:
        """Where this process's model runs; asking imports torch."""
        return _device(self.recipe, self.options.device, self.ranks)

    @property
    def policy(self) -> Policy:
        settings = self.recipe.generate
        return Policy(self.options.on_error, self.rows, lambda task: settings.for_task(task).fallback_text)


def run_infer(recipe: BaseRecipe, options: InferOptions) -> dict[str, object] | None:
    """Annotation to CSV and report; returns what the summary table shows, None in processes other than rank 0.

    Raises:
        UsageError: files that cannot be read or written, or a journal of another run lies beside the CSV.
        DataError: audio that cannot be used, unless it is asked to go on.
        NotaError: the disk is full, memory does not do for a single clip, a worker or another process is lost.
    """
    ranks = Ranks.from_environment()
    with ranks.together():
        run = _prepare(recipe, options, ranks)
        try:
            if ranks.rank == 0:
                return _lead(run)
            _follow(run)
            return None
        except KeyboardInterrupt:
            say("stopped; rows that are finished are kept, and the same command goes on")
            raise


def _prepare(recipe: BaseRecipe, options: InferOptions, ranks: Ranks) -> _Run:
    if options.recordings:
        chosen = select_recordings(options.recordings, options.task or "", options.limit)
    else:
        audio_root, leads = options.audio_root, ranks.rank == 0
        chosen = select_annotation(recipe, options.task, options.annotation, audio_root, options.limit, leads)
    _check_prompts(chosen.rows, recipe)
    check_device_name(options.device)
    # `nota validate-submission` takes the newest of `submissions/`, and texts of recordings are no submission.
    folder = Path("submissions" if chosen.annotation else "")
    out = options.out or folder / f"{recipe.name}-{options.task or 'all'}.csv"
    if out.is_symlink():
        out = Path(os.path.realpath(out))  # what lies beside the CSV lies beside the file itself
    check_run_outputs(out, recipe, chosen.annotation, chosen.rows, chosen.audio_root, ranks.world)
    return _Run(recipe, options, chosen, out, ranks)


def _lead(run: _Run) -> dict[str, object]:
    """Rank 0: look, divide, answer its share, gather, write."""
    check_writable(run.out)
    check_writable(report_path(run.out))
    provenance, run_key = _provenance(run)
    moved, restart = run.options.audio_root_moved, run.options.restart
    with closing(Journal(journal_path(run.out), run_key, restart=restart, moved=moved)) as journal:
        sweep(run.out)
        sweep(report_path(run.out))
        kept = _take_over(run, journal)
        if not (run.options.overwrite or any(kept)):  # rows are kept of a run that was allowed to write there
            refuse_other_run(run.out, provenance["run_key"])
        anew = run.options.overwrite or restart or any(kept)
        finished = None if anew else finished_report(run.out, provenance)
        if finished is not None:
            kept = bytearray(b"\1") * len(run.rows)
        left = array("q", (position for position in range(len(run.rows)) if not kept[position]))
        if finished is None and any(kept):
            say(f"{sum(kept)} of {len(run.rows)} rows were finished before and are kept, {len(left)} are left")
        share = _divide(run, journal, left)
        tallies = [_answer(run, journal, share)]
        with timed(run.stages, "gather"):
            tallies += [Tally(**json.loads(run.ranks.receive(f"tally.{rank}", rank))) for rank in run.ranks.others]
            if finished is not None:  # other processes were given no rows, and are done
                return _repeated(run, finished)
            outcomes = _gather(run, journal)
        with timed(run.stages, "write"):
            both = zip(run.rows, outcomes, strict=True)
            write_submission(run.out, ((row_id(row), entry.text) for row, entry in both if entry.status != SKIPPED))
        report = _write_report(run, outcomes, tallies, sum(kept), provenance)
        for path in rank_journals(run.out):
            path.unlink()
        journal.remove()
    return summary(run.out, report)


def _follow(run: _Run) -> None:
    """Another rank: answer what rank 0 gives it.

    Raises:
        UsageError: this process would answer otherwise than rank 0.
    """
    rank = run.ranks.rank
    _, own = _provenance(run)
    given = json.loads(run.ranks.receive(f"share.{rank}", 0))
    theirs, ours = (
        {name: value for name, value in key.items() if name not in MACHINE_LOCAL_KEYS} for key in (given["stamp"], own)
    )
    if theirs != ours:
        raise UsageError(
            "this process was not given what rank 0 was given (first rank 0's, then its own):\n"
            f"{listing(differences(theirs, ours))}\nGive all of them the same command and the same files."
        )
    # Rank 0 has taken over what an earlier run left there.
    with closing(Journal(journal_path(run.out, rank), given["stamp"], restart=True)) as journal:
        tally = _answer(run, journal, _Share(given["rows"], given["seconds"]))
    run.ranks.send(f"tally.{rank}", json.dumps(asdict(tally)).encode())


def _take_over(run: _Run, journal: Journal) -> bytearray:
    """Which rows are finished; what other ranks of an earlier run have left is put into rank 0's journal first."""
    for path in rank_journals(run.out):
        moved, restart = run.options.audio_root_moved, run.options.restart
        with closing(Journal(path, journal.run_key, restart=restart, moved=moved)) as other:
            journal.append([entry for entry in _entries(run, other) if entry.status == DONE])
            other.remove()
    kept = bytearray(len(run.rows))
    for entry in _entries(run, journal):
        if entry.status == DONE:  # others are tried again
            kept[entry.row] = 1
    return kept


def _divide(run: _Run, journal: Journal, left: Sequence[int]) -> _Share:
    """Look at the headers of what is left, deal with what is bad, and give every process its share."""
    with timed(run.stages, "scan"), progress(bool(left)) as bar:
        bar_task = bar.add_task("scan", total=len(left), detail="")
        headers = scan(
            [run.rows[position] for position in left],
            run.audio_root,
            whole=run.options.chunk,
            on_progress=lambda count: bar.advance(bar_task, count),
        )
        seconds = _lengths(run, headers, left)
    unusable = run.policy.before(headers)
    journal.append(unusable)
    bad = {entry.row for entry in unusable}
    good = array("q", (position for position in left if position not in bad))
    order = longest_first(good, [seconds[position] for position in good], run.recipe.audio.max_seconds)
    shares = []
    for rank in range(run.ranks.world):
        mine = order[rank :: run.ranks.world]  # every process gets long clips and short ones
        shares.append(_Share(mine, array("d", (seconds[position] for position in mine))))
    for rank in run.ranks.others:
        given = {"stamp": journal.run_key, "rows": list(shares[rank].rows), "seconds": list(shares[rank].seconds)}
        run.ranks.send(f"share.{rank}", json.dumps(given).encode())
    return shares[0]


def _lengths(run: _Run, headers: Scan, left: Sequence[int]) -> "array[float]":
    """Seconds of each good row's clip, by position; where a header does not tell, the clip is decoded and counted.

    If that shows that it is bad, it is added to `found`.
    """
    seconds = array("d", bytes(8 * len(run.rows)))
    bad = {each.row for each in headers}
    for position, known in zip(left, headers.durations, strict=True):
        row = run.rows[position]
        if known is not None:
            seconds[position] = known
        elif row.index not in bad:
            try:
                paths = clip_paths(row, run.audio_root)
                seconds[position] = duration(*paths, row=row.number, exact=run.options.chunk)
            except AudioError as error:
                headers.append(bad_file(row, error))
    headers.sort(key=lambda each: each.row)
    return seconds


def _answer(run: _Run, journal: Journal, share: _Share) -> Tally:
    """Answer the rows of a share; each batch is on the disk before the next one begins."""
    if not share.rows:
        return Tally()
    with timed(run.stages, "load"):
        with heavy_imports():
            from nota_cli.inference.engine import Engine
        model = load(run.recipe, run.device, run.options.loading)
    policy, options = run.policy, run.options
    lengths = array("d", bytes(8 * len(run.rows)))
    for position, seconds in zip(share.rows, share.seconds, strict=True):
        lengths[position] = seconds
    batch_size = options.batch_size
    if batch_size != 1 and not family_of(run.recipe.family).batches_alike and _depends_on_batch(run, model, share):
        batch_size = 1
    engine = Engine(
        model, run.rows, run.audio_root, workers=options.workers, batch_size=batch_size, chunk=options.chunk
    )
    with progress(run.ranks.rank == 0) as bar:
        many = "" if run.ranks.world == 1 else f"rank 0 of {run.ranks.world}"
        bar_task = bar.add_task("infer", total=len(share.rows), detail=many)

        def finished(results: list[Result]) -> None:
            entries = policy.during([(result.row, result.reason) for result in results if result.reason is not None])
            for result in results:
                if result.reason is None:
                    seconds = round(lengths[result.row], 3)
                    entry = Entry(result.row, result.text, looped=result.looped, seconds=seconds, notes=result.notes)
                    entries.append(entry)
            journal.append(entries)
            bar.advance(bar_task, len(entries))
            run.ranks.check()

        engine.run(share.rows, share.seconds, finished)
    engine.tally.compute = compute_types(model.parts())
    return engine.tally


def _depends_on_batch(run: _Run, model: AudioModel, share: _Share) -> bool:
    """Whether clips of unlike lengths get other texts in a batch than alone; then a warning says so."""
    from nota_cli.inference.batch_gate import differences, unlike

    known = [(row, seconds) for row, seconds in zip(share.rows, share.seconds, strict=True) if isfinite(seconds)]
    positions = unlike([row for row, _ in known], [seconds for _, seconds in known])
    if len(positions) < 2:
        return False
    differing = differences(model, run.rows, run.audio_root, positions)
    if differing:
        names = ", ".join(run.rows[each.position].path for each in differing)
        warn(
            f"recipe {run.recipe.name} gives {len(differing)} of {len(positions)} clips another text in a batch than "
            f"alone ({names}), so it runs at batch 1; nota check batch {run.recipe.name} shows them"
        )
    return bool(differing)


def _gather(run: _Run, journal: Journal) -> Outcomes:
    """What became of each row, from the journals of all ranks.

    Raises:
        NotaError: rows are in none of them.
    """
    until = time.monotonic() + VISIBLE_SECONDS
    while True:
        outcomes = Outcomes(len(run.rows))
        for entry in _all_entries(run, journal):
            outcomes.add(entry)
        if not outcomes.missing:
            return outcomes
        if run.ranks.world == 1 or time.monotonic() > until:
            raise NotaError(
                f"{outcomes.missing} rows are in no journal beside {run.out}, which all processes must be "
                "able to see; the same command does them again."
            )
        time.sleep(1.0)


def _all_entries(run: _Run, journal: Journal) -> Iterator[Entry]:
    yield from _entries(run, journal)
    for rank in run.ranks.others:
        path = journal_path(run.out, rank)
        if path.exists():  # one without rows is gone
            with closing(Journal(path, journal.run_key)) as other:
                yield from _entries(run, other)


def _entries(run: _Run, journal: Journal) -> Iterator[Entry]:
    """A line that is damaged may name any row."""
    return (entry for entry in journal.entries() if 0 <= entry.row < len(run.rows))


def _write_report(
    run: _Run, outcomes: Outcomes, tallies: Sequence[Tally], resumed: int, provenance: dict[str, Any]
) -> dict[str, Any]:
    long = "chunk" if run.options.chunk else "cut"
    facts = Facts(run.device, run.ranks.world, resumed, long, run.recipe.audio.max_seconds, provenance)
    report = run_report(run.rows, outcomes, tallies, run.stages, time.monotonic() - run.started, facts)
    named_by_path = run.selection.annotation is None
    validation = check_submission(run.out, run.options.task, named_by_path=named_by_path)
    report |= {"csv_hash": file_hash(run.out), "validation": validation}
    write_text(report_path(run.out), json.dumps(report, ensure_ascii=False, indent=2) + "\n")
    warn_of_rows(run.out, report)
    return report


def _repeated(run: _Run, report: dict[str, Any]) -> dict[str, object]:
    """Say that an earlier run of the same command left nothing to do; its CSV and report stay as they are."""
    say(f"{run.out}: all {len(run.rows)} rows are there already; --overwrite computes them anew")
    with suppress(OSError):  # where it may not be changed, it stays as old as it is
        run.out.touch()  # `nota validate-submission` takes the newest CSV, and this was asked for last
    check_submission(run.out, run.options.task, named_by_path=run.selection.annotation is None)
    warn_of_rows(run.out, report)
    seconds = time.monotonic() - run.started
    done_now = {"resumed_rows": report["rows"], "seconds": seconds, "clips_per_second": None}
    return summary(run.out, report | done_now)


def _provenance(run: _Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the report says of recipe, weights and annotation, and what the texts depend on."""
    options = run.options
    names = (name for row in run.rows for name in (row.path, *row.expand))
    return run_provenance(
        run.recipe,
        {
            "annotation": str(run.selection.annotation or ""),
            "hash": run.selection.digest,
            "audio_root": str(run.audio_root),
            "recordings": recordings_hash(names, run.audio_root),
        },
        {"task": options.task, "limit": options.limit},
        {"long": "chunk" if options.chunk else "cut", "load_format": options.loading.format},
    )


def _device(recipe: BaseRecipe, name: str, ranks: Ranks) -> str:
    """`auto` gives every process of a machine a CUDA device of its own, as far as there are any."""
    picked = device_for(recipe, name)
    if name != "auto" or picked != "cuda" or ranks.world == 1:
        return picked
    import torch

    return f"cuda:{int(os.environ.get('LOCAL_RANK', ranks.rank)) % torch.cuda.device_count()}"


def _check_prompts(rows: Sequence[Row], recipe: BaseRecipe) -> None:
    """Every row's task needs a prompt; better known before the model is loaded."""
    lacking = sorted({row.task for row in rows} - set(recipe.prompts.tasks))
    if lacking:
        raise RecipeError(f"recipe {recipe.name!r} has no prompt for {', '.join(lacking)}; add it under prompts.tasks")
