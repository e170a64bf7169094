"""Displays: folds over events."""
