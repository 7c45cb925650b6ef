from nota_cli.data.annotation import Row
from nota_cli.inference.batching import UNKNOWN, groups, longest_first, segments
from nota_cli.recipe.schema import Generate


def row(index: int, task: str) -> Row:
    return Row(index, f"{index}.wav", task, None, None, None, ())


def test_longest_first_and_the_annotations_order_among_equals() -> None:
    assert list(longest_first([4, 7, 8, 9], [1.0, 3.0, UNKNOWN, 1.0], 30.0)) == [8, 7, 4, 9]
    assert list(longest_first([0, 1, 2], [40.0, 31.0, 50.0], 30.0)) == [0, 1, 2]  # all are heard for 30 s


def test_windows_of_a_row_follow_one_another() -> None:
    found = segments([2, 0, 1], [70.0, 31.0, 12.0], 30.0, chunk=True)
    assert [segment.row for segment in found] == [2, 2, 2, 0, 0, 1]
    assert [found[place].window for place in range(4)] == [(0, 30), (25, 55), (50, 70), (0, 30)]
    rest = found.without({0, 3})
    assert [segment.window for segment in rest] == [(25, 55), (50, 70), (25, 31), None]
    assert found[-1].window is None
    assert [segment.seconds for segment in segments([2, 1], [70.0, 12.0], 30.0, chunk=False)] == [30.0, 12.0]


def test_a_clip_of_unknown_length_is_one_unit_even_in_chunks() -> None:
    (segment,) = segments([0], [UNKNOWN], 30.0, chunk=True)
    assert (segment.window, segment.seconds) == (None, 30.0)


def test_batches_hold_one_kind_of_settings_and_the_longest_clips_come_first() -> None:
    rows = [row(0, "asr"), row(1, "QA"), row(2, "asr"), row(3, "QA"), row(4, "asr")]
    settings = Generate.model_validate({"batch_size": 2, "tasks": {"QA": {"max_new_tokens": 3}}})
    members = segments([3, 4, 1, 0, 2], [9.0, 7.0, 5.0, 3.0, 1.0], 30.0, chunk=False)
    found = groups(members, rows, settings.for_task, lambda values: values.batch_size)
    assert [[members[place].row for place in group] for group in found] == [[3, 1], [4, 0], [2]]


def test_windows_stay_in_order_whatever_their_batches() -> None:
    rows = [row(index, "asr") for index in range(4)]
    members = segments([0, 1, 2, 3], [61.0, 45.0, 33.0, 29.0], 30.0, chunk=True)
    for size in (1, 2, 3, 8):
        found = groups(members, rows, Generate().for_task, lambda _, size=size: size)
        assert [place for group in found for place in group] == list(range(len(members)))
