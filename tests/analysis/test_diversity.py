"""Self-BLEU: the n-gram precisions and the brevity penalty by hand."""

import math

import pytest

from gtrturbo.analysis.diversity import bleu, self_bleu, words


def test_words_numbers_and_marks_are_split():
    assert words("3 is smaller than 10, so go UP!") == ["3", "is", "smaller", "than", "10", ",", "so", "go", "up", "!"]


def test_papinenis_example_of_clipped_counts():
    # "the" occurs twice at most in one reference: 2 of 7. No 2-, 3- or 4-gram matches: 0.1 of 6, 5 and 4. Nearest length 7.
    references = [words("the cat is on the mat"), words("there is a cat on the mat")]
    expected = math.exp((math.log(2 / 7) + math.log(0.1 / 6) + math.log(0.1 / 5) + math.log(0.1 / 4)) / 4)
    assert bleu(["the"] * 7, references) == pytest.approx(expected)


def test_precisions_and_brevity_penalty_by_hand():
    # a b c d x against a b c d e f: 4/5, 3/4 (ab bc cd), 2/3 (abc bcd), 1/2 (abcd); BP = exp(1 − 6/5).
    expected = math.exp(1 - 6 / 5) * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert bleu(list("abcdx"), [list("abcdef")]) == pytest.approx(expected)


def test_the_nearest_reference_decides_the_penalty_and_of_two_the_shorter():
    # c = 5: references of 4 and 6 words are as near; 4 is taken, and there is no penalty.
    expected = (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert bleu(list("abcdx"), [list("abcdef"), list("abcd")]) == pytest.approx(expected)
    assert bleu(list("abcdx"), [list("abcdef"), list("yy")]) == pytest.approx(math.exp(-0.2) * expected)


def test_a_text_shorter_than_four_words_is_smoothed():
    # 2/2, 1/1, then 0.1 of one 3-gram and one 4-gram that are not there.
    assert bleu(["go", "up"], [["go", "up"]]) == pytest.approx(0.01**0.25)


def test_no_words_score_0_and_no_references_are_refused():
    assert bleu([], [["a"]]) == 0.0
    with pytest.raises(ValueError, match="at least one reference"):
        bleu(["a"], [])


def test_self_bleu_is_the_mean_over_each_text_against_all_others():
    texts = ["a b c d x", "a b c d e f", "q r s t"]
    split = [text.split() for text in texts]
    expected = [bleu(split[0], [split[1], split[2]]), bleu(split[1], [split[0], split[2]]), bleu(split[2], [split[0], split[1]])]
    assert self_bleu(texts) == pytest.approx(sum(expected) / 3)


def test_one_template_scores_1_and_strangers_almost_nothing():
    assert self_bleu(["the target is larger so go up"] * 5) == pytest.approx(1.0)
    strangers = self_bleu([" ".join(f"w{text}x{place}" for place in range(30)) for text in range(5)])
    assert strangers is not None and strangers < 0.005
    assert self_bleu(["alone"]) is None
