"""New vocabulary for a pretrained model: the words of a language and what they mean in another."""
