"""How what is there differs from what is wanted: versions and panels."""

from gtrturbo.store.manifest import Manifest
from gtrturbo.store.provenance import Provenance, difference

PANEL = {"name": "held-out", "sha256": 64 * "a"}
PLAYED = {"name": "FrozenLake-v1", "version": "gymnasium 1.3.0"}


def made(**plugins) -> Manifest:
    return Manifest(1, "evaluation", "eval", "0", {}, {}, {}, {}, None, plugins)


def wanted(**plugins) -> Provenance:
    return Provenance("eval", "evaluation", {}, {}, plugins)


def test_the_same_versions_and_panels_are_no_difference():
    assert difference(made(panel=PANEL, task=PLAYED), wanted(panel=PANEL, task=PLAYED)) is None


def test_another_version_of_an_environment_is_named():
    newer = PLAYED | {"version": "gymnasium 1.4.0"}
    said = difference(made(task=PLAYED), wanted(task=newer))
    assert said == "with another version of FrozenLake-v1 (--task, gymnasium 1.3.0, not gymnasium 1.4.0)"
    assert difference(made(), wanted(task=newer)) == (
        "with another version of FrozenLake-v1 (--task, unknown, not gymnasium 1.4.0)"
    )


def test_other_episodes_of_a_panel_are_named_but_for_evaluations_made_before_panels_had_a_hash():
    said = difference(made(panel=PANEL), wanted(panel=PANEL | {"sha256": 64 * "b"}))
    assert said == "with other episodes of held-out (--panel, aaaaaa, not bbbbbb)"
    assert difference(made(), wanted(panel=PANEL)) is None


def test_another_text_of_a_users_file_is_named():
    code = {"name": "mine.py:TASK", "sha256": 64 * "a"}
    said = difference(made(task=code), wanted(task=code | {"sha256": 64 * "b"}))
    assert said == "with another text of mine.py:TASK (--task, aaaaaa, not bbbbbb)"
