"""What artifacts say when many are looked at together: the history of a run, groups of runs, intervals, thoughts, comparisons.

It reads artifacts and returns numbers; printing them is for `show` and `report`.
"""
