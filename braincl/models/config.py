"""Architecture of the shared-context network, stored with its weights."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = ("population", "mixture", "generic")


@dataclass(frozen=True)
class SharedContextConfig:
    """What the network is made of; stored beside its weights.

    Parameters
    ----------
    architecture : str
        "shared_context".
    features : int
        E of the population prior; 0 for a network without one, which takes any embedding.
    components : int
        Components of the mixture prior; 0 for none.
    relaxations : tuple of (shrinkage, mean scale)
        Further versions of the Gaussian population prior: its covariance shrunk towards a multiple of the identity, its
        mean scaled. A new subject need not be like the training subjects.
    scales : tuple of float
        Versions of the Gaussian population prior that take the variance of a voxel's signal from the training voxels,
        times this factor; the first one is the start. On real recordings evidence prefers a larger signal than
        predicts best.
    signals : tuple of float
        Versions of every generic prior whose signal has this share of a response's variance, beside those that
        integrate over it.
    leave_one_out : bool
        Experts are weighted by their leave-one-out predictions on the context (`braincl.models.expert_scores`), not
        by their evidence alone.
    prior_ridge_share : float
        What population-prior ridge has of the weight beside the network.
    powers : tuple of float
        Generic priors ``(C + eps I)^power``; the first one is the start where there is no population prior.
    width, heads, hidden, layers : int
        Of the set transformer that weights the experts.
    """

    architecture: str = "shared_context"
    features: int = 0
    components: int = 0
    relaxations: tuple[tuple[float, float], ...] = ((0.0, 0.5), (0.3, 1.0), (0.3, 0.5), (0.7, 0.7))
    scales: tuple[float, ...] = ()
    signals: tuple[float, ...] = ()
    leave_one_out: bool = False
    prior_ridge_share: float = 0.0
    powers: tuple[float, ...] = (0.0, 0.5, 1.0)
    width: int = 16
    heads: int = 2
    hidden: int = 32
    layers: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "relaxations", tuple((float(s), float(m)) for s, m in self.relaxations))
        if self.architecture != "shared_context":
            raise ValueError(f"architecture is {self.architecture!r}, expected 'shared_context'")
        if any(value <= 0 for value in (*self.scales, *self.signals)):
            raise ValueError(f"scales and shares of the signal must be positive, got {self.scales}, {self.signals}")
        ridge = bool(self.features) and self.leave_one_out and self.scales[:1] == (1.0,)
        if not 0 <= self.prior_ridge_share <= ridge:
            raise ValueError("a share for population-prior ridge lies in 0..1 and needs it as the first expert")
        if not self.powers or self.features < 0 or self.components < 0 or (self.components and not self.features):
            raise ValueError("a network needs generic powers, and a mixture needs the features of its prior")
