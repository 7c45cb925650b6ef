"""Submissions as bytes, and the problems that are found in them."""

from nota_cli.submission import examine

H = b"testset_id,text\n"
OK = H + b"test0000,a dog\n"
BOM = b"\xef\xbb\xbf"


def found(path, **options):
    return [(problem.code, problem.line) for problem in examine(path, **options).log.sorted()]
