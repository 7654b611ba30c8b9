"""What a training step of the generator is shown: shapes, what it is told of them, and ids that are held wrong.

Axes: b shape, k token, m mesh, r round of augmentation, v view, p patch of a picture, c channel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from setcore.parallel.prefetch import TensorGroup
from setcore.seeding import numpy_generator, torch_generator
from vat3d.generation.network import Condition
from vat3d.generation.shape_tokens import NamedMesh, Shapes

FEWEST = 3
"""Meshes that a name must have."""
UNASKED, BY_WORDS, WRONG = 0.12, 0.5, 0.1
"""Share of training shapes whose condition is withheld; of the others, share of those with a text vector that are
asked for by it alone, as words are that were never trained on; and share of ids that are held wrong, as samples will
be."""
UNNAMED, SHOWN = 0.7, (1, 1, 2)
"""Share of shapes with pictures whose name is withheld, and numbers of pictures, in turn."""


@dataclass(frozen=True)
class TrainingShapes(TensorGroup):
    """Shapes of a step, and what the network is told of them.

    Parameters
    ----------
    shapes : Shapes
        As they are.
    held : int tensor of shape (b, tokens)
        Ids, some of them wrong.
    name : int tensor of shape (b,)
        0 where it is withheld.
    words : tensor of shape (b, 512)
        Zero where the name has no text vector, or it is withheld.
    pictures : tensor of shape (b, p, c), optional
    """

    shapes: Shapes
    held: Tensor
    name: Tensor
    words: Tensor
    pictures: Tensor | None = None

    def condition(self) -> Condition:
        """What the network is asked for.

        Returns
        -------
        Condition
        """
        return Condition(self.name, self.words, self.pictures)

    def shown(self) -> TrainingShapes:
        """The same with pictures alone.

        Returns
        -------
        TrainingShapes
        """
        return replace(self, name=torch.zeros_like(self.name), words=torch.zeros_like(self.words))


def used_names(meshes: Sequence[NamedMesh]) -> tuple[str, ...]:
    """The names that enough meshes go by.

    Parameters
    ----------
    meshes : sequence of NamedMesh

    Returns
    -------
    tuple of str
        In the order of the alphabet.
    """
    counts = Counter(name for mesh in meshes for name in mesh.names)
    return tuple(sorted(name for name, count in counts.items() if count >= FEWEST))


class ShapeDraws:
    """An endless sequence of training shapes; what is drawn for one depends on the seed and its number alone.

    Rare names come more often than they are: a shape's weight is one over the root of how many share its first name.

    Parameters
    ----------
    shapes : Shapes
    vectors : tensor of shape (names, 512)
        Of `vat3d.generation.conditions.name_vectors`.
    codes : int
    seed : int
    pictures : tensor of shape (m, r, v, p, c), optional
        Of `vat3d.generation.training_pictures.picture_features`. With them every second step is of shapes that are
        shown, and seldom named as well.
    """

    def __init__(self, shapes: Shapes, vectors: Tensor, codes: int, seed: int, pictures: Tensor | None = None) -> None:
        self.shapes, self.codes, self.seed, self.pictures = shapes, codes, seed, pictures
        self.vectors = functional.pad(vectors, (0, 0, 1, 0))
        first = shapes.names[:, 0]
        weight = 1 / torch.bincount(first)[first].double().sqrt()
        self.ends = [_ends(weight)]
        if pictures is not None:
            shown = pictures[:, 0, 0].any(-1).any(-1)[shapes.mesh]
            self.ends.append(_ends(weight * shown))

    def __call__(self, numbers: range, step: int = 0) -> TrainingShapes:
        """Shapes by their numbers in the sequence.

        Parameters
        ----------
        numbers : range
        step : int
            Decides whether they are shown, and by how many pictures.

        Returns
        -------
        TrainingShapes
        """
        generators = [numpy_generator(self.seed, "shape", number) for number in numbers]
        uniform = torch.from_numpy(np.stack([generator.random(4 + max(SHOWN)) for generator in generators]))
        shown = step % len(self.ends)
        rows = np.searchsorted(self.ends[shown], uniform[:, 0].numpy(), side="right").clip(max=len(self.shapes) - 1)
        shapes = self.shapes.map(lambda part: part[torch.from_numpy(rows)])
        drawn = [torch_generator(self.seed, "held", number) for number in numbers]
        tokens = shapes.ids.shape[1]
        wrong = torch.stack([torch.rand(tokens, generator=generator) for generator in drawn]) < WRONG
        others = torch.stack([torch.randint(self.codes, (tokens,), generator=generator) for generator in drawn])
        given = (shapes.names > 0).sum(1)
        name = shapes.names.gather(1, (uniform[:, 1:2] * given[:, None]).long())[:, 0]
        name = name * (uniform[:, 2] >= (UNNAMED if shown else UNASKED))
        words = self.vectors[name]
        name = name * ((uniform[:, 3] >= BY_WORDS) | ~words.any(1))
        pictures = None
        if shown and self.pictures is not None:
            views = (uniform[:, 4 : 4 + SHOWN[step // 2 % len(SHOWN)]] * self.pictures.shape[2]).long()
            pictures = self.pictures[shapes.mesh[:, None], shapes.round[:, None], views].flatten(1, 2).float()
        return TrainingShapes(shapes, torch.where(wrong, others, shapes.ids), name, words, pictures)


def _ends(weight: Tensor) -> NDArray[np.float64]:
    """Where the share of each in 0..1 ends."""
    return np.asarray((weight.cumsum(0) / weight.sum()).numpy(), np.float64)


def as_they_are(shapes: Shapes, vectors: Tensor, pictures: Tensor | None = None) -> TrainingShapes:
    """Shapes of which the network is told everything, and asked for by their first name.

    Parameters
    ----------
    shapes : Shapes
    vectors : tensor of shape (names, 512)
    pictures : tensor of shape (m, r, v, p, c), optional

    Returns
    -------
    TrainingShapes
        With the first picture of each.
    """
    name = shapes.names[:, 0]
    words = functional.pad(vectors, (0, 0, 1, 0))[name]
    seen = None if pictures is None else pictures[shapes.mesh, 0, 0].float()
    return TrainingShapes(shapes, shapes.ids, name, words, seen)
