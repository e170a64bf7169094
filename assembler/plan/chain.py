"""A list that grows at its end without copying: each state of a fold shares what came before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from assembler.values import field, value

Item = TypeVar("Item")


@value
class Chain(Generic[Item]):
    """An immutable list; `append` gives a longer one in constant time and memory."""

    _last: tuple[Item, Chain[Item]] | None = field(default=None, repr=False)
    _size: int = 0

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @classmethod
    def of(cls, items: Iterable[Item]) -> Chain[Item]:
        """The chain of `items`."""
        chain: Chain[Item] = cls()
        for item in items:
            chain = chain.append(item)
        return chain

    def append(self, item: Item) -> Chain[Item]:
        """This and `item` after it."""
        return Chain((item, self), self._size + 1)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Item]:
        items: list[Item] = []
        chain = self
        while chain._last is not None:
            item, chain = chain._last
            items.append(item)
        return reversed(items)
