"""Behaviour tests of a model: altered copies of real messages, and cases whose answer is known."""
