"""From a trained classifier to one verified ``model.onnx``."""
