"""Chains, trees and both: solving problems with a language model, in steps that programs can check."""
