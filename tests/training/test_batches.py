from hypothesis import given
from hypothesis import strategies as st

from luthier.datasets.packing import PassLimits, grouped
from luthier.training.batches import Order, Row, Rows, order_of, pack

LENGTHS = st.lists(st.integers(2, 40), min_size=1, max_size=30)


def rows_of_lengths(lengths: list[int]) -> list[Row]:
    return [Row(ids=list(range(length)), loss_at=[0, length - 2]) for length in lengths]


def test_a_row_keeps_its_tokens_and_the_places_before_those_that_carry_loss():
    rows = Rows()
    rows.add([7, 8, 9, 1], [False, False, True, True])
    assert list(rows[0].ids) == [7, 8, 9, 1]
    assert list(rows[0].loss_at) == [1, 2]
    assert rows.loss_tokens == 2


def test_the_first_token_of_a_row_is_never_learned_because_nothing_stands_before_it():
    rows = Rows()
    rows.add([7, 8], [True, True])
    assert list(rows[0].loss_at) == [0]


def test_rows_without_a_token_to_learn_are_counted_and_left_out():
    rows = Rows()
    rows.add([7, 8], [False, False])
    rows.add([7], [True])
    assert (len(rows), rows.dropped) == (0, 2)


@given(LENGTHS, st.integers(1, 8), st.integers(8, 64))
def test_packing_keeps_every_row_in_order_and_stays_within_its_limits(lengths, most_rows, most_tokens):
    groups = list(grouped(rows_of_lengths(lengths), lambda row: len(row.ids), PassLimits(most_rows, most_tokens)))
    packed = [pack(group) for group in groups]
    assert [length for one in packed for length in one.lengths] == lengths
    for one in packed:
        assert len(one.lengths) <= most_rows
        assert len(one.ids_T) <= most_tokens or len(one.lengths) == 1


@given(LENGTHS)
def test_loss_never_stands_on_the_last_token_of_a_row(lengths):
    packed = pack(rows_of_lengths(lengths))
    ends = {sum(packed.lengths[: count + 1]) - 1 for count in range(len(packed.lengths))}
    assert ends.isdisjoint(packed.loss_at_N)
    assert list(packed.loss_at_N) == sorted(packed.loss_at_N)
    assert len(packed.loss_at_N) == sum(len(row.loss_at) for row in rows_of_lengths(lengths))


@given(st.integers(0, 2**32 - 1), st.integers(0, 5), st.integers(1, 60), st.integers(1, 9))
def test_an_epoch_shows_every_row_once_and_another_order_each_time(seed, epoch, rows, rows_per_step):
    order = Order(seed, rows, rows_per_step)
    steps = [order.of_step(epoch * order.steps_per_epoch + place) for place in range(order.steps_per_epoch)]
    assert sorted(index for step in steps for index in step) == list(range(rows))
    assert [index for step in steps for index in step] == list(order_of(seed, epoch, rows))


def test_the_order_depends_on_seed_and_epoch_alone_and_is_pinned():
    assert list(order_of(42, 0, 8)) == [4, 6, 7, 2, 5, 3, 1, 0]
    assert order_of(42, 0, 50) != order_of(42, 1, 50)
    assert order_of(42, 0, 50) != order_of(43, 0, 50)


def test_a_step_can_be_asked_for_in_any_order():
    forward, jumping = Order(1, 10, 3), Order(1, 10, 3)
    expected = [forward.of_step(step) for step in range(12)]
    assert [jumping.of_step(step) for step in (11, 0, 5)] == [expected[step] for step in (11, 0, 5)]
