"""Deals that panels have to themselves: only where there are enough of them, and never any other."""

import pytest

from gtrturbo.errors import GtrTurboError
from gtrturbo.tasks.deals import draw_until, has_both, held_out

KEPT = [deal for deal in map(str, range(100)) if held_out(deal)]
OTHERS = [deal for deal in map(str, range(100)) if not held_out(deal)]


@pytest.mark.parametrize("for_panels", [True, False])
def test_no_deal_of_the_other_kind_is_returned(for_panels):
    wrong = OTHERS if for_panels else KEPT
    with pytest.raises(GtrTurboError, match="of 2000 deals that were drawn none is one that panels"):
        draw_until(lambda: wrong[0], str, for_panels=for_panels)
    assert draw_until(lambda: wrong[0], str, for_panels=for_panels, draws=5, or_any=True) == wrong[0]
    right = (KEPT if for_panels else OTHERS)[0]
    waiting = iter([wrong[0]] * 1900 + [right])
    assert draw_until(lambda: next(waiting), str, for_panels=for_panels) == right


@pytest.mark.parametrize(
    ("deals", "both"),
    [
        (KEPT[:3] + OTHERS[:3], True),
        (KEPT[:2] * 50 + OTHERS, False),
        (KEPT + OTHERS[:2] * 50, False),
        (OTHERS[:1] * 200 + KEPT + OTHERS, False),  # They come too late: of 200 none is another one.
        (KEPT[:1] * 1000, False),
        ([], False),
    ],
)
def test_panels_have_deals_to_themselves_where_three_of_each_kind_are_soon_drawn(deals, both):
    assert has_both(iter(deals)) is both
