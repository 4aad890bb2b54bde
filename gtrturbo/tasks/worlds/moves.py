"""The four ways to walk on a grid that is seen from above, in rows and columns, in the order of FrozenLake's action numbers."""

MOVES: dict[str, tuple[int, int]] = {"left": (0, -1), "down": (1, 0), "right": (0, 1), "up": (-1, 0)}
