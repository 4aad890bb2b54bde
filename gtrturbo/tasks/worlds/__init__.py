"""Tasks of several steps through a world: each module makes one task from its options, as a task of the user's own is made."""
