"""How much of a tensor is in memory at once. Nothing heavy is imported here, so that every room may ask."""

# Entries that one job merges, unless a tile is larger: of each checkpoint and of the base, in float64.
MERGE_RANGE = 1 << 22
