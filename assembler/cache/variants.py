"""Variants of packed layers: `engine.realisation.Realisation.variant`, as text."""

from __future__ import annotations


def compression(variant: str) -> str:
    """The name of the compression that `variant` is of."""
    return variant.partition(" epoch=")[0].partition("/")[0]


def serves(found: str, wanted: str) -> bool:
    """Whether a layer of the variant `found` is as good as one of `wanted`: another engine or level of
    the same compression, at the same epoch."""
    return compression(found) == compression(wanted) and _epoch(found) == _epoch(wanted)


def same_tar(found: str, wanted: str) -> bool:
    """Whether a layer of the variant `found` is another compression of the tar that `wanted` is of, but
    for the table that eStargz puts behind its end."""
    return compression(found) != compression(wanted) and _epoch(found) == _epoch(wanted)


def _epoch(variant: str) -> str:
    return variant.rpartition(" epoch=")[2]
