"""Schedules: ends, shapes, bad input."""

import pytest

from abkd.engine import Schedule, as_schedule, is_schedule
from abkd.errors import InputError


@pytest.mark.parametrize("shape", ["linear", "cosine"])
@pytest.mark.parametrize("until", [0.25, 1.0])
def test_goes_from_one_end_to_the_other_and_stays(shape, until):
    schedule = Schedule(1.0, 0.2, shape, until)
    assert schedule.at(0.0) == 1.0
    assert schedule.at(until / 2) == pytest.approx(0.6)
    assert schedule.at(until) == pytest.approx(0.2, abs=1e-15)
    assert schedule.at(1.0) == pytest.approx(0.2, abs=1e-15)
    values = [schedule.at(step / 40) for step in range(41)]
    assert values == sorted(values, reverse=True)
    assert schedule.at(-1.0) == 1.0


def test_the_shapes_differ_where_they_should():
    assert Schedule(0.0, 1.0, "linear").at(0.25) == 0.25
    assert Schedule(0.0, 1.0, "cosine").at(0.25) == pytest.approx(0.1464466094067262)
    assert Schedule(0.3, 0.3, "constant").at(0.7) == 0.3
    with pytest.raises(InputError, match="never gets to 0"):
        Schedule(0.3, 0.9, "constant")


def test_written_forms():
    assert as_schedule(0.5).at(0.9) == 0.5
    written = {"from": 1, "to": 0.2, "shape": "cosine", "until": 0.5}
    assert as_schedule(written) == Schedule(1, 0.2, "cosine", 0.5)
    assert as_schedule(as_schedule(written)) == as_schedule(written)
    assert is_schedule(written)
    assert not is_schedule(0.5)
    assert not is_schedule({"name": "alpha_beta"})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"from": 1, "to": 0, "shape": "cosin"}, "did you mean 'cosine'"),
        ({"from": 1, "too": 0}, "did you mean 'to'"),
        ({"from": 1}, "'to' is missing"),
        ({"from": 1, "to": 0, "until": 0}, "until must be in"),
        ({"from": 1, "to": float("nan")}, "finite"),
        ({"from": True, "to": 0}, "finite number"),
        ("fast", "expected a number or a schedule"),
        (True, "expected a number or a schedule"),
    ],
)
def test_bad_schedules(value, message):
    with pytest.raises(InputError, match=message):
        as_schedule(value)
