"""Watching a run: numbers to files and to the terminal, and where the time goes."""
