from nota_cli.inference.journal import BLANK, DONE, SKIPPED, Entry
from nota_cli.inference.results import Outcomes


def test_entries_come_back_by_row() -> None:
    entries = [
        Entry(2, "a dog", looped=True, seconds=1.5),
        Entry(0, "n/a", BLANK, reason="no samples"),
        Entry(1, "", SKIPPED, reason="gone"),
    ]
    outcomes = Outcomes(3)
    for count, entry in enumerate(entries):
        assert outcomes.missing == 3 - count
        outcomes.add(entry)
    assert outcomes.missing == 0
    assert list(outcomes) == sorted(entries, key=lambda entry: entry.row)
    assert (len(outcomes), outcomes[2]) == (3, entries[0])


def test_the_first_that_is_done_counts_else_the_last() -> None:
    outcomes = Outcomes(1)
    for text, status, reason, expected in [
        ("", SKIPPED, "gone", ""),
        ("n/a", BLANK, "still gone", "n/a"),
        ("a dog", DONE, "", "a dog"),
        ("a cat", DONE, "", "a dog"),
        ("", SKIPPED, "gone", "a dog"),
    ]:
        outcomes.add(Entry(0, text, status, reason=reason))
        assert outcomes[0].text == expected
    assert outcomes[0] == Entry(0, "a dog")
