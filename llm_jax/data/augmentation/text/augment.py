"""The one entry of text augmentation: texts, labels and operations in, new labelled texts out.

An operation is any function from a list of `Example` to as many texts. What it draws comes from
each example's own generator, so that the copy of a text does not depend on the order of work.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.order import hashed


@dataclasses.dataclass(frozen=True)
class Example:
    """What an operation sees of one text.

    Attributes:
      text: to be changed.
      random: of this text and copy alone.
      others: the given texts of the same class without this one; none where there are no labels.
    """

    text: str
    random: np.random.Generator
    others: Sequence[str] = ()


Operation = Callable[[Sequence[Example]], list[str]]


@dataclasses.dataclass(frozen=True)
class Augmented:
    """New texts, without the given ones: those of the first text, those of the second, and so on.

    Attributes:
      texts: [n * copies].
      labels: [n * copies], those of the texts they come from; None where none were given.
      sources: int64 [n * copies], the places of those texts.
    """

    texts: list[str]
    labels: np.ndarray | None
    sources: np.ndarray


def augment(
    texts: Sequence[str],
    labels: Sequence | None,
    operations: Sequence[Operation | Sequence[Operation]],
    *,
    seed: int,
    copies: int,
) -> Augmented:
    """Makes new texts, each by one of `operations`, drawn with equal probability.

    Copy c of text i is a function of (seed, i, c), the text and the operations; where they mix
    texts also of the others of its class. An operation that finds nothing to change (no word with
    a synonym) leaves the text as it is. Augment the training split only, after splitting.

    Args:
      texts: [n].
      labels: [n] classes, numbers or strings; None where no operation needs them.
      operations: of this package, or any function of the same form; a sequence among them counts
        as one operation: its members are applied one after the other.
      seed: of all draws.
      copies: new texts for each given one.

    Raises:
      ConfigError: labels of another number, no operations, no copies, or an operation that does
        not return a text for each.
    """
    if copies < 1:
        raise ConfigError(f"copies is {copies}: give 1 or more")
    if not operations:
        raise ConfigError("operations are empty: give one or more, e.g. [RandomSwap()]")
    if labels is not None and len(labels) != len(texts):
        raise ConfigError(f"{len(labels)} labels for {len(texts)} texts: give one for each")
    others = _others(texts, labels)
    examples = []
    for copy in range(copies):
        name = hashed(f"augment text {seed} {copy}")
        for index, text in enumerate(texts):
            key = np.array([name, index], np.uint64)
            random = np.random.Generator(np.random.Philox(key=key))
            examples.append(Example(text, random, others[index]))
    choices = np.array([each.random.integers(len(operations)) for each in examples], np.int64)
    for number, operation in enumerate(operations):
        chain = [operation] if callable(operation) else operation
        mine = np.flatnonzero(choices == number).tolist()
        for step in chain:
            results = step([examples[place] for place in mine]) if mine else []
            if len(results) != len(mine):
                raise ConfigError(f"{step!r} gave {len(results)} texts for {len(mine)}")
            for place, text in zip(mine, results):
                examples[place] = dataclasses.replace(examples[place], text=text)
    sources = np.repeat(np.arange(len(texts)), copies)
    # Made copy by copy, returned text by text.
    order = np.arange(len(examples)).reshape(copies, len(texts)).T.reshape(-1)
    return Augmented(
        [examples[place].text for place in order.tolist()],
        None if labels is None else np.asarray(labels)[sources],
        sources,
    )


def _others(texts, labels) -> list[Sequence[str]]:
    if labels is None:
        return [()] * len(texts)
    members: dict = {}
    places = []
    for text, label in zip(texts, np.asarray(labels).tolist()):
        own = members.setdefault(label, [])
        places.append(len(own))
        own.append(text)
    return [
        _AllButOne(members[label], place)
        for label, place in zip(np.asarray(labels).tolist(), places)
    ]


class _AllButOne(Sequence):
    """A sequence without the item at one place, not copied."""

    def __init__(self, items: list[str], place: int):
        self._items, self._place = items, place

    def __len__(self) -> int:
        return len(self._items) - 1

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._items[index + (index >= self._place)]
