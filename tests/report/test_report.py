"""report: one page that needs nothing else, whose numbers are those of the runs."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_runs import empty, make_run
from typer.testing import CliRunner

from gtrturbo.analysis.groups import RunGroup
from gtrturbo.analysis.history import read_history
from gtrturbo.analysis.record import record_run
from gtrturbo.analysis.summary import by_episode
from gtrturbo.cli import app
from gtrturbo.config import DistillConfig, PpoStepConfig, ReportConfig, RunConfig
from gtrturbo.config.prices import Prices
from gtrturbo.errors import GtrTurboError
from gtrturbo.report import report
from gtrturbo.report.chart import Axis, Line, Point, Rule, bars, curves, nice_ticks, tick_labels
from gtrturbo.report.cost import outside_teacher
from gtrturbo.report.episodes import choose, level, samples
from gtrturbo.report.panels import updated
from gtrturbo.stages import execute
from gtrturbo.store.tensors import load_turn_tokens

BLIND = f"{Path(__file__).parents[2]}/examples/reproduce/release.py:BLIND"
VOID = {"meta", "img", "br", "path", "circle", "rect", "polygon"}


class Page(HTMLParser):
    """Reads a page and notes what is wrong with it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.wrong: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.wrong += [f"<{tag}> is not closed" for tag in self.open]
        self.wrong += [f"id {name} twice" for name in {i for i in self.ids if self.ids.count(i) > 1}]

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.tags.append((tag, named))
        self.ids += [named["id"]] if named.get("id") else []
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script" or any(name.startswith("on") for name in named):
            self.wrong.append(f"<{tag}> runs code")
        source = named.get("src") or named.get("href") or ""
        if source and not source.startswith("data:"):
            self.wrong.append(f"<{tag}> loads {source}")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> closes another")


# Pictures


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1]),
        (-2.15, -0.35, [-2.5, -2, -1.5, -1, -0.5, 0]),
        (0.97, 1.07, [0.95, 0.975, 1, 1.025, 1.05, 1.075]),
        (3, 3, [2.6, 2.8, 3.0, 3.2, 3.4]),
        (0, 0, [-1, -0.5, 0, 0.5, 1]),
        (-1e-7, 0.014, [0, 0.005, 0.01, 0.015]),
    ],
)
def test_ticks_are_round_and_enclose_the_values(low, high, ticks):
    assert nice_ticks(low, high) == pytest.approx(ticks, abs=1e-12)


@pytest.mark.parametrize(
    ("ticks", "labels"),
    [
        ([0.0, 0.25, 0.5], ["0.00", "0.25", "0.50"]),
        ([-10.0, 0.0, 10.0], ["-10", "0", "10"]),
        ([0.975, 1.0, 1.025], ["0.975", "1.000", "1.025"]),
        ([0.0, 2e-7, 4e-7], ["0", "2e-7", "4e-7"]),
        ([5.5e-7, 5.55e-7, 5.6e-7], ["5.5e-7", "5.55e-7", "5.6e-7"]),
    ],
)
def test_tick_labels_show_what_the_step_needs(ticks, labels):
    assert tick_labels(ticks) == labels


def test_an_axis_is_linear_and_may_run_downwards():
    axis = Axis(0, 2, 200, 100)
    assert [axis(value) for value in (0, 1, 2)] == [200, 150, 100]


def test_points_lie_where_their_values_say():
    line = Line("a <b>", [Point(0, 0.0, 0.0, 0.5), Point(4, 1.0, 0.5, 1.0)], style=0)
    drawn = curves("n", "t", [line], rules=[Rule("chance", 0.5)], bounds=(0.0, 1.0))
    assert 'd="M48.0 184.0L366.0 10.0"' in drawn  # from the bottom left to the top right of the frame
    assert 'd="M48.0 97.0L366.0 10.0L366.0 97.0L48.0 184.0Z"' in drawn  # upper edge, and back along the lower
    assert 'd="M48 97.0H366"' in drawn and ">chance<" in drawn
    assert "a &lt;b&gt;: 0 at iteration 0, 1 at iteration 4" in drawn
    assert Page(drawn).wrong == []


def test_curves_of_one_colour_differ_by_dashes_and_others_by_marker():
    lines = [Line("a", [Point(0, 1)], 0), Line("b", [Point(0, 2)], 1), Line("c", [Point(0, 3)], 0, dashed=True)]
    drawn = curves("n", "t", lines, bounds=None)
    assert drawn.count("stroke-dasharray") == 1 and "<circle" in drawn and '<rect x="' in drawn


def test_bars_are_stacked_to_scale():
    drawn = bars("n", "t", [("one", [("a", 1.0), ("b", 3.0)]), ("two", [("a", 2.0), ("b", 0.0)])], "s")
    placed = [(float(x), float(w)) for x, w in re.findall(r'<rect class="p\d" x="([\d.]+)" y="\d+" width="([\d.]+)"', drawn)]
    assert placed == [(0.0, 77.5), (77.5, 232.5), (0.0, 155.0), (155.0, 0.0)]
    assert ">4 s<" in drawn and ">2 s<" in drawn


@pytest.mark.parametrize(
    ("k1", "name"), [(0.0, ""), (0.049, ""), (0.05, "r1"), (-0.4, "b1"), (0.5, "r2"), (-1.9, "b2"), (7.0, "r3"), (-2.0, "b3")]
)
def test_tokens_are_coloured_by_sign_and_size_of_k1(k1, name):
    assert level(k1) == name


# A page of runs that are made up


@pytest.fixture
def made(tmp_path) -> list[Path]:
    taken = {"rollouts": 5.0, "checkpoints": 7.0, "teachers": 1.0, "guidance": 2.0}
    return [
        make_run(
            tmp_path / f"{method}-{seed}",
            method,
            seed,
            {0: [1, 0, 0, 0], 1: [1] * wins + [0] * (4 - wins)},
            teachers={1: [1, 1, 0, 0]} if method == "turbo-kl" else None,
            seconds=taken,
        )
        for seed in (0, 1)
        for method, wins in (("ppo", 1 + seed), ("turbo-kl", 3))
    ]


def test_the_page_is_whole_loads_nothing_and_says_what_the_runs_say(made, tmp_path):
    text = report(ReportConfig(runs=tuple(made), out=tmp_path / "new" / "page.html", samples=0)).read_text()
    page = Page(text)
    assert page.wrong == []
    assert "default-src 'none'" in text and "prefers-color-scheme: dark" in text and "width=device-width" in text
    assert "turbo-kl on numberline: success 0.750 [0.750, 0.750] over 2 seeds, not resolved above chance (0.250)" in text
    assert "against ppo +0.375 [+0.250, +0.500] over 2 seeds, exact p .500: not resolved." in text
    assert "ppo: 2 seeds; with fewer than 6" in text
    pictures = [named for tag, named in page.tags if tag == "svg" and named.get("role") == "img"]
    assert len(pictures) > 5
    for named in pictures:
        assert set((named["aria-labelledby"] or "").split()) <= set(page.ids)
    # Beside each picture its numbers.
    assert text.count("<summary>numbers</summary>") == len(pictures)


def test_a_run_that_goes_on_and_one_seed_are_told_as_what_they_are(tmp_path):
    runs = (
        make_run(tmp_path / "a", "turbo-kl", 0, {0: [1] * 20, 1: [1] * 20}, iterations=20),
        make_run(tmp_path / "b", "ppo", 0, {0: [1] * 20, 1: [1] * 20}),
    )
    text = report(ReportConfig(runs=runs, out=tmp_path / "page.html", samples=0)).read_text()
    assert "<td>0 of 20</td>" in text and "<td>no: 0 of 20 updates</td>" in text and "<td>yes</td>" in text
    assert "turbo-kl, seed 0, has not ended (0 of 20 updates)" in text
    # All 20 deals were won, far above chance: of other seeds one run tells nothing all the same.
    assert "over one run, not resolved above chance (0.250)" in text and ", resolved above" not in text


def test_chance_that_was_not_measured_is_no_level(tmp_path):
    run = make_run(tmp_path / "run", "ppo", 0, {0: [1, 0], 1: [1, 1]}, chance={})
    text = report(ReportConfig(runs=(run,), out=tmp_path / "page.html", samples=0)).read_text()
    assert "ppo on numberline: success 1.000 [0.342, 1.000] over one run, chance not measured." in text
    assert "chance 0.000" not in text and ">chance<" not in text and "chance (" not in text


def test_what_no_run_recorded_is_said_so(made, tmp_path):
    text = report(ReportConfig(runs=tuple(made), out=tmp_path / "page.html", samples=0)).read_text()
    figure = next(part for part in text.split("<figure") if "<figcaption>Clip fraction" in part)
    assert "not recorded" in figure and "<svg" not in figure.split("</figure>")[0]


def test_turns_that_are_gone_are_named(made, tmp_path):
    with pytest.raises(GtrTurboError, match=r"turns\.jsonl is missing"):
        report(ReportConfig(runs=tuple(made), out=tmp_path / "page.html"))


def test_text_from_files_is_escaped(tmp_path):
    run = make_run(tmp_path / "<b>", "ppo", 0, {0: [1, 0]}, set=("rollout.x=<script>alert(1)</script>",))
    text = report(ReportConfig(runs=(run,), out=tmp_path / "page.html")).read_text()
    assert Page(text).wrong == [] and "&lt;script&gt;" in text


def test_the_same_runs_give_the_same_page(made, tmp_path):
    pages = [report(ReportConfig(runs=tuple(made), out=tmp_path / name, samples=0)).read_bytes() for name in ("a.html", "b.html")]
    assert pages[0] == pages[1]


def test_a_number_of_an_update_is_the_manifests_else_the_mean_of_its_minibatches(tmp_path):
    run = make_run(tmp_path / "a", "ppo", 0, {0: [1, 0]})
    empty(run / "checkpoints" / "0002", "ppo-step", 1.0)
    (run / "checkpoints" / "0002" / "metrics.jsonl").write_text('{"x": 1.0}\n{"x": 4.0}\n{"y": 3.0}\n')
    assert updated("x")(read_history(run)) == {2: 2.5}
    assert updated("z")(read_history(run)) == {}


# A page of a run that was played


@pytest.fixture(scope="module")
def played(root, warm, turns, scores, ppo_config, tmp_path_factory) -> Path:
    """A run folder around the shared artifacts: one rollout, its scores and its update."""
    run = tmp_path_factory.mktemp("played")
    record_run(RunConfig(out=run, method="turbo-kl", env=("image=tiny",)), replace=True)
    for name, target in (("rollouts", turns), ("guidance", scores)):
        (run / name).mkdir()
        (run / name / "0000").symlink_to(target)
    execute(PpoStepConfig(out=run / "checkpoints" / "0001", checkpoint=warm, rollouts=turns, scores=scores, epochs=1))
    return run


def test_a_sample_shows_pictures_thought_and_action_apart_and_reward_terms(played, turns):
    run = read_history(played)
    text = samples(run, 1)
    page = Page(text)
    assert page.wrong == []
    (_, first) = choose(by_episode(run.entries["rollouts"][0].turns()), 1)[0]
    embedded = [base64.b64decode((named["src"] or "").split(",")[1]) for tag, named in page.tags if tag == "img"]
    assert embedded == [(turns / image).read_bytes() for turn in first for image in turn.images]
    thoughts = re.findall(r'<p class="said thought">.*?</p>', text, re.DOTALL)
    actions = re.findall(r'<p class="said action">.*?</p>', text, re.DOTALL)
    plain = [re.sub(r'<span class="label">.*?</span>|<[^>]*>', "", part) for part in thoughts + actions]
    for place, turn in enumerate(first):
        said = "".join(plain[place :: len(first)]) if len(actions) == len(thoughts) else plain[place]
        assert said.replace("&quot;", '"').replace("¶", "").startswith(turn.reply[:20])
        assert turn.legal is False or '"action"' not in plain[place].replace("&quot;", '"')
    assert "KL to the teacher" in text and "format" in text and re.search(r'class="[rb][123]" title="k1 [+-]', text)


def test_scores_of_the_release_colour_no_tokens_of_a_sample(root, init, turns, tmp_path):
    blind = execute(DistillConfig(out=root / "blind", rollouts=turns, teacher=init, mode=BLIND)).out
    record_run(RunConfig(out=tmp_path, env=("image=tiny",)), replace=True)
    for name, target in (("rollouts", turns), ("guidance", blind)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0000").symlink_to(target)
    text = samples(read_history(tmp_path), 1)
    assert "No teacher scored the tokens of these turns" in text and 'title="k1' not in text


def test_tokens_of_a_sample_have_their_numbers_in_a_table(played):
    text = samples(read_history(played), 1)
    row = re.search(r"<td>thought</td><td>(-[\d.]+)</td><td>(-[\d.]+)</td><td>([+-][\d.]+)</td>", text)
    assert row is not None
    student, teacher, k1 = map(float, row.groups())
    assert k1 == pytest.approx(student - teacher, abs=0.0016)


def test_won_and_lost_episodes_alternate_from_the_first(played):
    episodes = by_episode(read_history(played).entries["rollouts"][0].turns())
    chosen = choose(episodes, len(episodes))
    assert sorted(turns[0].episode for _, turns in chosen) == [turns[0].episode for turns in episodes]
    flat = [turn for episode in episodes for turn in episode]
    assert all(flat[row] is turns[0] for row, turns in chosen)
    won = [turns[-1].won for _, turns in chosen]
    both = 2 * min(sum(won), len(won) - sum(won))
    assert won[:both] == [True, False] * (both // 2)


def test_an_outside_teacher_costs_its_calls_and_tokens_at_the_named_price(played, turns):
    tokens = load_turn_tokens(turns / "tokens.safetensors")
    calls, count = len(tokens.response_ids), sum(map(len, [*tokens.prompt_ids, *tokens.response_ids]))
    groups = [RunGroup("numberline", "turbo-kl", {0: read_history(played)})]
    text = outside_teacher(groups, Prices(0.5, 1e6, None, "EUR"))
    assert f"<td>{calls}</td>" in text and f"<td>{0.5 * calls + count:,.2f}</td>" in text and "API, EUR" in text
    assert "Assumed: one call per turn" in text
    assert "No price was named" in outside_teacher(groups, Prices(None, None, None, "EUR"))


def test_the_command_prints_the_page_it_wrote(made, tmp_path):
    out = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["report", *map(str, made), "--out", str(out), "--price", "call=0.01", "--samples", "0"])
    assert (result.exit_code, result.stdout) == (0, f"{out}\n")
    assert Page(out.read_text()).wrong == []
