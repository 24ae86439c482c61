"""Scoring of files of any size: in parts, resumable, with every row accounted for."""

from __future__ import annotations

from afina.scoring.job import ScoreResult, score
from afina.scoring.plan import Settings

__all__ = ["ScoreResult", "Settings", "score"]
