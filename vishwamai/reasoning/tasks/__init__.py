"""Kinds of problems, by name."""
