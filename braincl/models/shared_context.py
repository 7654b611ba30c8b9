"""The shared-context network: closed-form experts over a context, weighted per voxel by a set transformer.

The image side of a context is solved once per subject: one eigendecomposition per expert (`braincl.models.experts`),
shared by all voxels. Experts are the population prior of the training subjects, the same prior trusted less, the
components of a mixture prior, and generic priors that need no training subject. A voxel's weights over an expert's
noise levels are exact Bayes plus a learned correction; those over experts start from what each predicts on the context
(`braincl.models.expert_scores`), for the voxel and for all voxels: every (voxel, expert) pair is a token, experts
attend to each other, and averages over all voxels tell each voxel how the others fared. Untrained, the network is near
population-prior (or generic) ridge with its noise integrated out.

The encoder that comes out is linear: ``w_v = sum_c p_vc (s_vc mu_c + Sigma_c A' a_vc)``.

Axes: n context image, t query image, E feature, V voxel, v voxel of a batch, c expert, b basis, h signal share, q
relative scale.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from braincl.errors import ModelError
from braincl.models.config import SharedContextConfig
from braincl.models.evidence import Evidence, evidence_of_all, solve
from braincl.models.expert_features import LOCAL, common_features, common_width, pair_features
from braincl.models.expert_scores import INITIAL_TRUST, ExpertScores, score_experts
from braincl.models.experts import Context, Expert
from braincl.models.network import InContextNetwork, batches
from braincl.models.noise_levels import SCALES, SIGNAL_SHARES, posterior_weights
from braincl.models.prior import Prior, isotropic_prior
from braincl.models.set_attention import TinySetAttention
from setcore.blocks import SelfAttentionBlock

GRID_POINTS = len(SIGNAL_SHARES) * SCALES
KEPT_VALUES = 2**26  # 256 MB of evidence is kept between reading a context and emitting weights


class ConditionedContext(NamedTuple):
    """A context as the network has read it.

    Parameters
    ----------
    context : Context
    experts : list of Expert
    features : tensor (V, c, LOCAL)
    mean_features : tensor (c, LOCAL)
        Over all voxels.
    scores : ExpertScores or None
        Where experts are weighted by what they predict.
    kept : dict of (start, stop) to list of Evidence
        Of batches of voxels, as far as memory allows.
    """

    context: Context
    experts: list[Expert]
    features: Tensor
    mean_features: Tensor
    scores: ExpertScores | None
    kept: dict[tuple[int, int], list[Evidence]]

    def evidence(self, Y: Float[Tensor, "n v"], voxels: slice) -> list[Evidence]:
        """What every expert says of a batch of voxels.

        Parameters
        ----------
        Y : tensor (n, v)
            Of these voxels only.
        voxels : slice

        Returns
        -------
        list of Evidence
        """
        return self.kept.get((voxels.start, voxels.stop)) or evidence_of_all(self.context, self.experts, Y)

    def compact(self) -> ConditionedContext:
        """Without the evidence that is kept at hand; it is gathered anew where it is needed.

        Returns
        -------
        ConditionedContext
        """
        return self._replace(kept={})


class SharedContextNetwork(InContextNetwork):
    """Experts on the context, weighted by a set transformer; see the module.

    Responses are standardised per voxel on the context by the caller.

    Parameters
    ----------
    config : SharedContextConfig
    """

    architecture = "shared_context"
    config_class = SharedContextConfig
    prior_means: Tensor
    prior_covariances: Tensor
    prior_log_weights: Tensor
    prior_shares: Tensor

    def __init__(self, config: SharedContextConfig) -> None:
        super().__init__()
        self.config = config
        if config.features:
            priors = 1 + config.components
            self.register_buffer("prior_means", torch.zeros(priors, config.features))
            eye = torch.eye(config.features) / config.features
            self.register_buffer("prior_covariances", eye.repeat(priors, 1, 1))
            self.register_buffer("prior_log_weights", torch.zeros(priors))
            self.register_buffer("prior_shares", torch.full((len(SIGNAL_SHARES),), 1 / len(SIGNAL_SHARES)))
        self.embed = nn.Sequential(
            nn.Linear(LOCAL + common_width(config), config.hidden), nn.SiLU(), nn.Linear(config.hidden, config.width)
        )
        self.gate = nn.ModuleList(  # the set transformer; stored weights have this name
            SelfAttentionBlock(config.width, config.heads, config.hidden, attention=TinySetAttention)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.read_out = nn.Linear(config.width, 2)
        nn.init.zeros_(self.read_out.weight)
        nn.init.zeros_(self.read_out.bias)
        if config.leave_one_out:
            self.trust = nn.Parameter(torch.tensor(INITIAL_TRUST))
        self.share_logits = nn.Parameter(torch.zeros(len(SIGNAL_SHARES)))
        self.temper = nn.Parameter(torch.zeros(()))  # log of the power that evidence is raised to
        self.std_scale = nn.Parameter(torch.zeros(2))  # log factor on the standard deviation, and its slope in log n

    # The population prior.

    def set_prior(self, gaussian: Prior, mixture: Prior | None = None) -> None:
        """Store the population prior of the training subjects.

        Parameters
        ----------
        gaussian : Prior
            Of one component.
        mixture : Prior, optional
            Of ``config.components`` components.

        Raises
        ------
        ModelError
            The prior has another width than the network.
        """
        if gaussian.n_features != self.config.features:
            raise ModelError(f"the prior has {gaussian.n_features} features, the network {self.config.features}")
        parts = [gaussian] + ([mixture] if mixture is not None else [])
        self.prior_means.copy_(torch.cat([torch.as_tensor(p.means) for p in parts]))
        self.prior_covariances.copy_(torch.cat([torch.as_tensor(p.covariances) for p in parts]))
        self.prior_log_weights.copy_(torch.cat([torch.as_tensor(p.log_weights) for p in parts]))
        self.prior_shares.copy_(torch.as_tensor(gaussian.shares))

    def gaussian_prior(self) -> Prior | None:
        """The Gaussian population prior of the training subjects.

        Returns
        -------
        Prior or None
            None for a network that was trained without one.
        """
        if not self.config.features:
            return None
        first = (self.prior_log_weights[:1], self.prior_means[:1], self.prior_covariances[:1], self.prior_shares)
        return Prior(*(tensor.double().numpy() for tensor in first))

    def starting_prior(self, features: int) -> Prior:
        """The population prior, isotropic where there is none, with the learned distribution of signal shares.

        Parameters
        ----------
        features : int
            E, of the embeddings at hand.

        Returns
        -------
        Prior

        Raises
        ------
        ModelError
            The population prior has another width.
        """
        self.check_features(features)
        prior = self.gaussian_prior() or isotropic_prior(features)
        shares = self._log_share_prior().detach().double().softmax(dim=0).numpy()
        return Prior(np.zeros(1), prior.means, prior.covariances, shares)

    # The image side: once per context, in float64.

    def _experts(self, context: Context) -> list[Expert]:
        experts = []
        if self.config.features:
            means, covariances = self.prior_means.double(), self.prior_covariances.double()
            basis = context.add_basis(covariances[0])
            signal = float(self.prior_shares.double() @ torch.as_tensor(SIGNAL_SHARES))
            for factor in self.config.scales:
                experts.append(context.gaussian("population", means[0], basis, signal=factor * signal))
            for shrinkage, mean_scale in ((0.0, 1.0), *self.config.relaxations):
                experts.append(context.gaussian("population", means[0], basis, shrinkage, mean_scale))
            for c in range(1, 1 + self.config.components):
                basis = context.add_basis(covariances[c])
                experts.append(context.gaussian("mixture", means[c], basis))
        signals = (0.0, *self.config.signals)
        return experts + [context.generic(power, signal) for signal in signals for power in self.config.powers]

    @torch.no_grad()
    def condition(
        self, X: Float[Tensor, "n e"], Y: Float[Tensor, "n v"], voxel_batch: int = 1024
    ) -> ConditionedContext:
        """Solve all experts on a context and gather what the set transformer sees of each voxel.

        Parameters
        ----------
        X : tensor (n, E)
        Y : tensor (n, V)
            Standardised on the context.
        voxel_batch : int
            Voxels that are worked on at once.

        Returns
        -------
        ConditionedContext

        Raises
        ------
        ModelError
            X has another width than the population prior.
        """
        self.check_features(X.shape[1])
        context = Context(X)
        experts = [expert.to(Y.dtype) for expert in self._experts(context)]
        context.lower(Y.dtype)
        log_shares = self._log_shares(experts) if self.config.leave_one_out else None
        parts, kept = [], {}
        size = len(experts) * GRID_POINTS + 2 * sum(system.vectors.shape[1] for system in context.systems)
        for voxels in batches(Y.shape[1], voxel_batch):
            found = evidence_of_all(context, experts, Y[:, voxels])
            parts.append(pair_features(context, experts, found, Y[:, voxels], log_shares))
            if voxels.stop * size <= KEPT_VALUES:
                kept[voxels.start, voxels.stop] = found
        features, log_evidence, log_predictive = (torch.cat(part) for part in zip(*parts, strict=True))
        scores = None
        if self.config.leave_one_out:
            scores = score_experts(log_evidence, log_predictive, *self._mixture(experts))
        return ConditionedContext(context, experts, features, features.mean(dim=0), scores, kept)

    def _mixture(self, experts: list[Expert]) -> tuple[list[int], Tensor]:
        """Which experts are components of the mixture, and their log weights."""
        members = [c for c, expert in enumerate(experts) if expert.kind == "mixture"]
        return members, self.prior_log_weights[1:] if members else torch.zeros(0)

    # The voxel side: any batch of voxels.

    def _corrections(self, conditioned: ConditionedContext, voxels: slice) -> Float[Tensor, "v c two"]:
        """Learned corrections per voxel and expert: to the log weight, and to the log-odds of the signal share."""
        features, experts = conditioned.features[voxels], conditioned.experts
        images, count = len(conditioned.context.A), len(conditioned.features)
        alike = common_features(self.config, experts, conditioned.mean_features, images, count)
        first, *others = self.embed
        assert isinstance(first, nn.Linear)
        own, common = first.weight[:, :LOCAL], first.weight[:, LOCAL:]
        tokens = features @ own.T + (alike.to(features.dtype) @ common.T + first.bias)
        for layer in (*others, *self.gate):
            tokens = layer(tokens)
        corrections: Tensor = self.read_out(self.norm(tokens))
        return corrections

    def weights(
        self, conditioned: ConditionedContext, found: list[Evidence], voxels: slice
    ) -> list[Float[Tensor, "v h q"]]:
        """Weights of experts, noise levels and scales.

        Parameters
        ----------
        conditioned : ConditionedContext
        found : list of Evidence
            Of these voxels, by expert.
        voxels : slice

        Returns
        -------
        list of tensor (v, h, q)
            One for each expert; together they sum to one for every voxel.
        """
        correction = self._corrections(conditioned, voxels)
        odds = torch.logit(torch.as_tensor(SIGNAL_SHARES, dtype=correction.dtype)) / 4
        by_share = self._log_shares(conditioned.experts) + correction[..., 1:] * odds
        level = correction[..., 0] + self._log_prior(conditioned.experts).to(correction.dtype)
        if conditioned.scores is None:
            by_share = by_share + level[..., None]
        logits = [
            torch.addcmul(of_expert[..., None], evidence.log_likelihood, self.temper.exp())
            for of_expert, evidence in zip(by_share.unbind(dim=1), found, strict=True)
        ]
        if conditioned.scores is None:
            joint = torch.cat([part.flatten(1) for part in logits], dim=1).softmax(dim=1)
            sizes = [part[0].numel() for part in logits]
            parts = torch.split(joint, sizes, dim=1)
            return [weights.view_as(part) for weights, part in zip(parts, logits, strict=True)]
        scores, within_mixture = (part[voxels] for part in conditioned.scores)
        among = (level + within_mixture + scores @ self.trust).softmax(dim=1)
        shares = among.unbind(dim=1)
        return [posterior_weights(part) * share[:, None, None] for part, share in zip(logits, shares, strict=True)]

    def _log_shares(self, experts: list[Expert]) -> Float[Tensor, "c h"]:
        """Log weight of each noise level of each expert before any evidence; even where the signal is known."""
        even = torch.full_like(self.share_logits, -math.log(len(SIGNAL_SHARES)))
        return torch.stack([even if expert.signal else self._log_share_prior() for expert in experts])

    def _log_share_prior(self) -> Float[Tensor, "h"]:
        """Log weight of each share of signal before any evidence, up to a constant."""
        if self.config.features:
            return self.share_logits + self.prior_shares.log()
        return self.share_logits - (math.log(len(SIGNAL_SHARES)) if self.config.leave_one_out else 0)

    def _log_prior(self, experts: list[Expert]) -> Tensor:
        """Log weight of each expert before any evidence.

        The first expert leads, the others are held back until trained. Where experts are weighted by their predictions
        it takes less to hold them back, and the mixture, which is there only if it predicted training subjects better,
        leads.
        """
        mixture = torch.tensor([expert.kind == "mixture" for expert in experts])
        if self.config.leave_one_out:
            return torch.where(mixture, 0.0, -2.0 if mixture.any() else 0.0)
        prior = torch.full((len(experts),), -4.0)
        prior[0] = 0.0
        if mixture.any():
            prior[mixture] = self.prior_log_weights[1:]
        return prior

    def emit(
        self, conditioned: ConditionedContext, Y: Float[Tensor, "n v"], voxels: slice
    ) -> tuple[Float[Tensor, "v e"], Float[Tensor, "v"]]:
        """Encoder weights and biases of a batch of voxels.

        Parameters
        ----------
        conditioned : ConditionedContext
        Y : tensor (n, v)
            Of these voxels only.
        voxels : slice

        Returns
        -------
        weights : tensor (v, E)
        bias : tensor (v,)
        """
        duals, means = self.read_through(conditioned, Y, voxels)
        mean_weights = torch.stack([expert.mean_weights for expert in conditioned.experts])
        bases = torch.cat([*conditioned.context.bases, mean_weights])
        weights = torch.cat([duals.flatten(1), means], dim=1) @ bases
        return weights, -(weights @ conditioned.context.offset.to(weights.dtype))

    def read_through(
        self, conditioned: ConditionedContext, Y: Float[Tensor, "n v"], voxels: slice
    ) -> tuple[Float[Tensor, "v b n"], Float[Tensor, "v c"]]:
        """What encoder weights are sums of.

        Parameters
        ----------
        conditioned : ConditionedContext
        Y : tensor (n, v)
            Of these voxels only.
        voxels : slice

        Returns
        -------
        duals : tensor (v, b, n)
            Amount of every context image in every basis.
        means : tensor (v, c)
            Amount of every expert's mean.
        """
        context, found = conditioned.context, conditioned.evidence(Y, voxels)
        weights = self.weights(conditioned, found, voxels)
        means, of_systems = [], [torch.zeros(()) for _ in context.systems]
        for c, expert in enumerate(conditioned.experts):
            solution = solve(expert, found[c], weights[c])
            means.append(solution.mean_coefficient)
            of_systems[expert.system] = of_systems[expert.system] + solution.dual * expert.gain
        duals = Y.new_zeros(Y.shape[1], len(context.bases), len(Y))
        for system, dual in zip(context.systems, of_systems, strict=True):
            on_images = dual @ system.vectors.T
            for basis, factor in system.mix:
                duals[:, basis].add_(on_images, alpha=factor)
        return duals, torch.stack(means, dim=1)

    def context_shares(
        self, conditioned: ConditionedContext, Y: Float[Tensor, "n v"], voxels: slice
    ) -> Float[Tensor, "v n"]:
        """The norm of what each context image contributes to a voxel's weights, over the sum of these norms.

        The E-dimensional contributions ``c_vi = sum_b a_vbi phi_b(x_i)`` themselves are never formed: their norms
        follow from the inner products of the bases, image by image.

        Parameters
        ----------
        conditioned : ConditionedContext
        Y : tensor (n, v)
            Of these voxels only.
        voxels : slice

        Returns
        -------
        tensor (v, n)
        """
        duals, _ = self.read_through(conditioned, Y, voxels)
        stacked = torch.stack(conditioned.context.bases)
        products = torch.einsum("bne,cne->nbc", stacked, stacked)
        norms = torch.einsum("vbn,nbc,vcn->vn", duals, products, duals).clamp(min=0).sqrt()
        return norms / norms.sum(dim=1, keepdim=True)

    def predictive_std(
        self, conditioned: ConditionedContext, Y: Float[Tensor, "n v"], voxels: slice, queries: Float[Tensor, "t e"]
    ) -> Float[Tensor, "v t"]:
        """Standard deviation of new standardised responses, noise included.

        Parameters
        ----------
        conditioned : ConditionedContext
        Y : tensor (n, v)
            Of these voxels only.
        voxels : slice
        queries : tensor (t, E)

        Returns
        -------
        tensor (v, t)
        """
        return self.predictive_moments(conditioned, Y, voxels, queries)[1].sqrt()

    def predictive_moments(
        self, conditioned: ConditionedContext, Y: Float[Tensor, "n v"], voxels: slice, queries: Float[Tensor, "t e"]
    ) -> tuple[Float[Tensor, "v t"], Float[Tensor, "v t"]]:
        """Mean and variance of new standardised responses, noise included.

        Parameters
        ----------
        conditioned : ConditionedContext
        Y : tensor (n, v)
            Of these voxels only.
        voxels : slice
        queries : tensor (t, E)

        Returns
        -------
        mean, variance : tensor (v, t)
        """
        context = conditioned.context
        centred = queries.double() - context.offset
        low = centred.to(Y.dtype)
        read = [low @ basis.T for basis in context.bases]
        crosses = [context.mixed(index, read) @ system.vectors for index, system in enumerate(context.systems)]
        found = conditioned.evidence(Y, voxels)
        weights = self.weights(conditioned, found, voxels)
        mean = torch.zeros(Y.shape[1], len(queries), dtype=Y.dtype)
        second, variance = torch.zeros_like(mean), torch.zeros_like(mean)
        for c, expert in enumerate(conditioned.experts):
            solution = solve(expert, found[c], weights[c])
            cross = crosses[expert.system] * expert.gain  # (t, k)
            part = torch.outer(solution.mean_coefficient, low @ expert.mean_weights) + solution.dual @ cross.T
            mass = weights[c].sum(dim=(1, 2)).clamp(min=1e-12)
            mean, second = mean + part, second + part.square() / mass[:, None]
            power = (weights[c] * found[c].grid.scale.square()).sum(dim=2)  # (V, h)
            prior = context.prior_variance(expert, centred).to(Y.dtype)
            noise = power @ found[c].grid.ratio * (1 + 1 / len(Y))
            explained = (power @ found[c].inverse) @ cross.square().T
            variance = variance + torch.outer(power.sum(dim=1), prior) - explained + noise[:, None]
        variance = variance.clamp(min=1e-6) + (second - mean.square()).clamp(min=0)
        scale = self.std_scale[0] + self.std_scale[1] * (math.log(len(Y)) / 5 - 1)
        return mean, variance * torch.exp(2 * scale)
