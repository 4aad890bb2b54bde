"""What a run is: its methods, the list of stages that it is, how that is executed or printed as shell, what it keeps and takes.

A stage never imports from here.
"""
