"""Submission CSVs: written whole or not at all, judged by the organisers' rules before they are sent, and mended."""

from nota_cli.submission.pair import Pair, examine_pair
from nota_cli.submission.problems import KINDS, LIMIT, Log, Problem
from nota_cli.submission.reading import Record
from nota_cli.submission.repair import Repair, repair
from nota_cli.submission.rows import COLUMNS, READ_AS_NAN, Report, examine, read_records, validate
from nota_cli.submission.writing import find_submission, write_submission

__all__ = ["COLUMNS", "KINDS", "LIMIT", "READ_AS_NAN", "Log", "Pair", "Problem", "Record", "Repair", "Report"]
__all__ += ["examine", "examine_pair", "find_submission", "read_records", "repair", "validate", "write_submission"]
