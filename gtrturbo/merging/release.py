"""The merge of the paper's published code, as far as its teacher depends on it; rebuilt so that its cost can be measured."""

CHECKPOINTS = 4


def released_scale(*, factors: bool) -> float:
    """Say what a trimmed change, or each factor of it, is multiplied by in the published merge.

    It calls PEFT's TIES with the four checkpoints of an update (one per PPO epoch, D8) at weights w = 1/4. Each A and each B is
    multiplied by √w, trimmed, and averaged over the checkpoints that agree, as near-equal ones do. So B·A comes out as w times
    their mean product (D4), and every later merge returns at once, because there is one of that name (D1). Here an update gives
    one checkpoint, which stands for its four. A task vector takes the w at once; factors that are merged apart (D5) take √w each.
    """
    share = 1 / CHECKPOINTS
    return share**0.5 if factors else share
