"""A guard of the user's own: a wider dual clip, and log-ratios within 10 nats."""

from gtrturbo.algorithms.guards import Guard

GUARD = Guard(dual_clip=5.0, largest_log_ratio=10.0)
