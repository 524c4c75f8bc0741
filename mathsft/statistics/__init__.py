"""Confidence intervals, comparisons and the smoothed surface: pure functions of counts and outcomes."""
