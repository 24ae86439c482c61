"""The model: a pre-trained backbone, pooling and a head; how it is found, built, saved and run."""
