"""Teachers that are asked in words: models on servers and local ones, how their answers are read, and what they cost.

Nothing here trains, and nothing loads weights: a teacher answers questions about turns (gtrturbo/play/teachers.py), and what it
was asked and paid for is kept, so that it is asked once. To ask otherwise, replace a file of `prompts` by `distill --prompt`.
"""
