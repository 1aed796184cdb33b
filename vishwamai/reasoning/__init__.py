"""Chains, trees and both: solving problems with a language model, in steps that programs can check."""

from vishwamai.reasoning.budget import Budget
from vishwamai.reasoning.chain import ChainOfThought
from vishwamai.reasoning.hybrid import IntegratedReasoning
from vishwamai.reasoning.local import Local
from vishwamai.reasoning.memory import ThoughtMemory
from vishwamai.reasoning.remote import Remote
from vishwamai.reasoning.scripted import Scripted
from vishwamai.reasoning.solution import Solution
from vishwamai.reasoning.task import Task
from vishwamai.reasoning.tree import TreeOfThoughts

__all__ = [
    "Budget",
    "ChainOfThought",
    "IntegratedReasoning",
    "Local",
    "Remote",
    "Scripted",
    "Solution",
    "Task",
    "ThoughtMemory",
    "TreeOfThoughts",
]
