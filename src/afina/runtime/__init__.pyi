from afina.runtime.classifier import Classifier, Prediction, Score

__all__ = ["Classifier", "Prediction", "Score"]
