"""A teacher of the user's own for NumberLine: short thoughts where the student is wrong, and a guess at every token."""

import json

import numpy as np

from gtrturbo.play.teachers import Teacher


def thought(question):
    current, target = question.info["Current"], question.info["Target"]
    action = "+" if current < target else "-"
    if action == question.action:
        return None
    fields = {"current number": current, "target number": target, "thoughts": f"{action} leads to {target}.", "action": action}
    return json.dumps(fields)


def thoughts(questions):
    assert all(question.pictures[0].dtype == np.uint8 for question in questions)
    return [thought(question) for question in questions]


def logprobs(questions):
    return [np.full(len(question.response_ids), -0.5) for question in questions]


TEACHER = Teacher(thoughts=thoughts, logprobs=logprobs)
