"""Fine-tune BERT-like models on badly imbalanced text and deliver one verified model.onnx."""

import os

__version__ = "0.1.0"

# Unless told not to before it is imported, onnxruntime's wheel for Linux reports its use to Microsoft, and
# leaves files in the user's home. Predicting needs no network.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
