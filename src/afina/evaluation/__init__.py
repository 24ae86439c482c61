"""Honest measurement: metrics, intervals, thresholds, baselines and the data behind the plots."""
