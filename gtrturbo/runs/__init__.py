"""What a run is: a method of the table (methods.py), the list of stages that follows from it (plan.py, the algorithm at a
glance), how that list is worked off (execute.py) or printed as shell (script.py), what a built-in model learns with (presets.py),
what a run takes (estimate.py) and what is thrown away on its way (pruning.py). A new method is a record in methods.py, or one of
the user's own; a stage never imports from here.
"""
