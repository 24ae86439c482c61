"""Adapting a backbone to the text at hand before it is fine-tuned."""
