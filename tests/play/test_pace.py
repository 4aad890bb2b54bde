"""How long a server's answer is waited for follows from those that came."""

from gtrturbo.play.pace import FIRST, SHORTEST, Pace


def test_before_any_answer_a_first_one_has_time_to_come_and_what_generates_nothing_less():
    pace = Pace()
    assert (pace.limit(64), pace.limit(0)) == (FIRST, SHORTEST)


def test_an_answer_is_late_after_four_times_the_longest_of_those_that_may_be_as_long():
    pace = Pace()
    for seconds, tokens in [(3.0, 64), (20.0, 512), (11.0, 512)]:
        pace.answered(seconds, tokens)
    assert pace.limit(512) == pace.limit(64) == 80.0
    assert pace.limit(0) == SHORTEST


def test_where_only_shorter_replies_came_they_tell_by_the_token():
    pace = Pace()
    pace.answered(2.0, 64)
    assert pace.limit(64) == SHORTEST  # Four times 2 s are less.
    assert pace.limit(1024) == 4 * 2.0 * 1024 / 64


def test_where_nothing_comes_in_time_the_time_doubles_until_something_does():
    pace = Pace()
    pace.answered(1.0, 64)
    for limit in (30.0, 60.0, 120.0):
        assert pace.limit(64) == limit
        pace.missed(limit)
        pace.missed(limit)  # Requests that were sent together miss the same.
    pace.answered(200.0, 64)
    assert pace.limit(64) == 800.0


def test_only_recent_answers_count():
    pace = Pace()
    pace.answered(100.0, 64)
    for _ in range(64):
        pace.answered(10.0, 64)
    assert pace.limit(64) == 40.0
