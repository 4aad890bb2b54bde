"""GTR-Turbo: train vision-language-model agents with a free teacher merged from their own checkpoints."""

__version__ = "0.2.0"
