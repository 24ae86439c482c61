from afina.runtime.classifier import Classifier, Prediction, Score
from afina.runtime.streaming import text_problem

__all__ = ["Classifier", "Prediction", "Score", "text_problem"]
