"""Which scores are log-probs of the tokens sampled, so that the student's may be subtracted."""

from dataclasses import replace

import pytest

from gtrturbo.play.teachers import tells_of_tokens
from gtrturbo.store.manifest import read_manifest


@pytest.mark.parametrize(
    ("config", "tells"),
    [
        ({"mode": "kl"}, True),
        ({"mode": "kl", "compat": "none"}, True),
        ({"mode": "kl", "compat": "release"}, False),  # As versions before this one wrote it.
        ({"mode": "release.py:BLIND"}, False),
        ({"mode": "nowhere.py:KL"}, False),  # Never loaded to find out.
    ],
)
def test_scores_tell_of_tokens_if_a_built_in_mode_made_them_that_says_so(scores, config, tells):
    assert tells_of_tokens(replace(read_manifest(scores), config=config)) is tells
