"""Dockerfile text to a tree. Pure: text in, values out."""
