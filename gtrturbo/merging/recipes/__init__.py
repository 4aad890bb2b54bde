"""mergekit's YAML: read within bounds, understood as mergekit means it, and laid out as one streamed merge.

`recipe` checks what it says, `values` settles a parameter for one tensor, `options` turns what options of the
command line can say into these, and `inputs` lays out the rest: layers, tokens, types, models with an adapter.
"""

from gtrturbo.merging.recipes.options import as_options, read_recipe
from gtrturbo.merging.recipes.parsing import parse_recipe
from gtrturbo.merging.recipes.recipe import Recipe

__all__ = ["Recipe", "as_options", "parse_recipe", "read_recipe"]
