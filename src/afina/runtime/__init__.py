"""Torch-free inference: what loads one ``model.onnx`` and predicts."""
