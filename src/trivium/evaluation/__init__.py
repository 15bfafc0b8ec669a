"""Measures of a model: pass@k by execution, bits per byte, and the intervals that belong to them."""
