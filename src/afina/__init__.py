"""Fine-tune BERT-like models on badly imbalanced text and deliver one verified model.onnx."""

__version__ = "0.1.0"
