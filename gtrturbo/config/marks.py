"""Names of the files by which a folder is known as written by gtrturbo: an artifact, one that is being written, or a run."""

MANIFEST = "stage.json"
# In a folder that is being written, from when it is made until it takes its place: it is gtrturbo's own.
DRAFT_MARK = ".gtrturbo-draft"
# Of a run: the settings that name it.
RECORD = "run.json"
