"""Spin correlations and entanglement of top pairs."""
