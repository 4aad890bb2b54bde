"""distill --student: guidance and the update that it guides, in one command."""

import pytest
from small_runs import assert_same, contents

from gtrturbo.config import DistillConfig, PpoStepConfig, SftConfig
from gtrturbo.errors import GtrTurboError
from gtrturbo.runs.student import distill
from gtrturbo.stages import execute
from gtrturbo.store.manifest import read_manifest


def test_distill_with_a_student_is_distill_and_ppo_step_without_the_game(tmp_path, warm, init, turns):
    settings = ("epochs=1", "minibatch-size=16", "learning_rate=1e-4", "detach-value=true")
    one = DistillConfig(out=tmp_path / "one", rollouts=turns, teacher=init, student=warm, update=settings, seed=3)
    result = distill(one)
    execute(DistillConfig(out=tmp_path / "scores", rollouts=turns, teacher=init, seed=3))
    by_hand = PpoStepConfig(
        out=tmp_path / "two",
        checkpoint=warm,
        rollouts=turns,
        scores=tmp_path / "scores",
        environment_coef=0.0,
        epochs=1,
        minibatch_size=16,
        learning_rate=1e-4,
        detach_value=True,
        seed=3,
    )
    assert execute(by_hand).id == result.id
    assert result.out == tmp_path / "one"
    assert_same(contents(tmp_path / "one"), contents(tmp_path / "two"))
    assert_same(contents(tmp_path / "one.guidance"), contents(tmp_path / "scores"))
    assert distill(one).id == result.id  # which is there already


def test_distill_with_a_student_imitates_demos_with_sft(tmp_path, warm, turns):
    settings = ("steps=2", "batch-size=4", "learning-rate=1e-4")
    one = DistillConfig(out=tmp_path / "one", rollouts=turns, expert=True, mode="thoughts", student=warm, update=settings, seed=3)
    result = distill(one)
    execute(DistillConfig(out=tmp_path / "demos", rollouts=turns, expert=True, mode="thoughts", seed=3))
    by_hand = SftConfig(
        out=tmp_path / "two", checkpoint=warm, data=(tmp_path / "demos",), steps=2, batch_size=4, learning_rate=1e-4, seed=3
    )
    assert execute(by_hand).id == result.id
    assert_same(contents(tmp_path / "one"), contents(tmp_path / "two"))
    assert_same(contents(tmp_path / "one.guidance"), contents(tmp_path / "demos"))
    assert read_manifest(tmp_path / "one").stage == "sft"


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("epochs", "--update epochs is not KEY=VALUE."),
        ("no-such=1", "--update no-such: ppo-step has no such option."),
        ("out=elsewhere", "--update out cannot be set: distill decides what its update reads and writes."),
        ("checkpoint=other", "--update checkpoint cannot be set: distill decides what its update reads and writes."),
    ],
)
def test_distill_refuses_an_update_that_it_cannot_hand_on(tmp_path, warm, init, turns, setting, told):
    config = DistillConfig(out=tmp_path / "one", rollouts=turns, teacher=init, student=warm, update=(setting,))
    with pytest.raises(GtrTurboError) as error:
        distill(config)
    assert error.value.what == told
    assert list(tmp_path.iterdir()) == []  # found out before the teacher worked


def test_a_student_that_is_not_there_is_told_before_the_teacher_works(tmp_path, turns):
    with pytest.raises(GtrTurboError, match="nobody does not exist"):
        distill(DistillConfig(out=tmp_path / "one", rollouts=turns, expert=True, mode="thoughts", student=tmp_path / "nobody"))
    assert not list(tmp_path.iterdir())
