"""Numbers of `--env` are written in plain digits, as those of every other option."""

import pytest

from gtrturbo.algorithms.weights import checkpoint_weights
from gtrturbo.errors import GtrTurboError
from gtrturbo.tasks.options import Number, Whole, read_option

PYTHON_READS = ["1_0", "１０", " 10", "10\n", ""]  # int() takes all but the last for 10.


@pytest.mark.parametrize("text", [*PYTHON_READS, "1e1", "10.0", "0x10", "9" * 5000, "ten"])
def test_a_whole_number_is_written_in_digits(text):
    with pytest.raises(GtrTurboError, match="line must be a whole number from -100 to 100, got '"):
        read_option("line", text, Whole(5, -100, 100))
    assert [read_option("line", each, Whole(5, -100, 100)) for each in ("10", "+10", "-10", "010")] == [10, 10, -10, 10]


@pytest.mark.parametrize("text", [*PYTHON_READS, "1_0.5", "half"])
def test_a_number_is_written_in_digits(text):
    with pytest.raises(GtrTurboError, match="ice must be a number, got '"):
        read_option("ice", text, Number(0.5))
    assert [read_option("ice", each, Number(0.5)) for each in ("10", "-.5", "1E-3")] == [10.0, -0.5, 0.001]
    assert all(isinstance(read_option("ice", each, Number(0.5)), float) for each in ("10", "-0"))


@pytest.mark.parametrize("text", ["1_0", "１", ""])
def test_weights_of_checkpoints_are_written_in_digits(text):
    with pytest.raises(GtrTurboError, match="weights must be sma, ema:ALPHA or numbers"):
        checkpoint_weights(f"1,{text}", 2)
