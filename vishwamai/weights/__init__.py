"""Weights: declared once as a tree of specs, then read by everyone who needs them."""
