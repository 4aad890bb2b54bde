"""python -m gtrturbo"""

from gtrturbo.cli import main

main()
