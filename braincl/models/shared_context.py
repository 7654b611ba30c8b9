"""The shared-context network: closed-form experts over a context, weighted per voxel by a set transformer.

The image side of a context is solved once per subject: one eigendecomposition per expert (`braincl.models.experts`),
shared by all voxels. Experts are the population prior of the training subjects, the same prior trusted less, the
components of a mixture prior, and generic priors that need no training subject. A voxel's weights over an expert's
noise levels are exact Bayes plus a learned correction; those over experts start from what each predicts on the context
(`braincl.models.expert_scores`), for the voxel and for all voxels: every (voxel, expert) pair is a token, experts
attend to each other, and averages over all voxels tell each voxel how the others fared. Untrained, these
starting weights are all that there is.

A network that is trained on several subjects sees priors that left one of them out, which are worse than the one it has
in the end; so it trusts that one too little. Beside it population-prior ridge has a share of the weight then.

The encoder that comes out is linear: ``w_v = sum_c p_vc (s_vc mu_c + Sigma_c A' a_vc)``.

Axes: n context image, t query image, E feature, V voxel, v voxel of a batch, c expert, b basis, h noise level.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from braincl.errors import ModelError
from braincl.models.config import SharedContextConfig
from braincl.models.evidence import (
    Evidence,
    ExpertGroup,
    evidence_of_all,
    group_experts,
    in_groups,
    read_out,
    read_through,
    solve,
    squared_scale,
)
from braincl.models.expert_features import LOCAL, common_features, common_width, pair_features
from braincl.models.expert_scores import INITIAL_TRUST, ExpertScores, score_experts
from braincl.models.experts import Context, Expert
from braincl.models.network import InContextNetwork, Summary, batches
from braincl.models.noise_levels import SIGNAL_SHARES, most_likely_level, posterior
from braincl.models.prior import Prior, isotropic_prior
from braincl.models.set_attention import TinySetBlock, apply, normed

TILE = 512  # voxels that the set transformer works on at once, so that they stay in the processor's cache
PRIOR_PARTS = ("means", "covariances", "log_weights", "shares")
LEAST_SHARE = 1e-12  # of an expert, so that no number becomes denormal
KEPT_VALUES = 2**25  # 128 MB of evidence is kept between reading a context and emitting weights


class ConditionedContext(NamedTuple):
    """A context as the network has read it.

    Parameters
    ----------
    context : Context
    experts : list of Expert
    groups : list of ExpertGroup
        The same experts, put together.
    rows : tensor (r, E)
        What weights are sums of: one of every eigenvector, or, where that is less work, of every image in every basis;
        then the experts' means.
    means : tensor (c, E)
        mu of every expert.
    offset : tensor (E,)
        Of the embeddings.
    log_prior : tensor (c,)
        Log weight of each expert before any evidence.
    corrections : tensor (two, c, V)
        Learned corrections per voxel and expert: to the log weight, and to the log-odds of the signal share.
    scores : ExpertScores or None
        Where experts are weighted by what they predict.
    kept : dict of (start, stop) to list of Evidence
        Of batches of voxels, as far as `KEPT_VALUES` allows.
    noise : tensor (n, 2), optional
        How noise goes with what is predicted: `Summary.noise` of all voxels of the subject.
    """

    context: Context
    experts: list[Expert]
    groups: list[ExpertGroup]
    rows: Tensor
    means: Tensor
    offset: Tensor
    log_prior: Tensor
    corrections: Tensor
    scores: ExpertScores | None
    kept: dict[tuple[int, int], list[Evidence]]
    noise: Tensor | None

    def evidence(self, Y: Float[Tensor, "n v"], voxels: slice) -> list[Evidence]:
        """What every group of experts says of a batch of voxels.

        Parameters
        ----------
        Y : tensor (n, v)
            Of these voxels only.
        voxels : slice

        Returns
        -------
        list of Evidence
        """
        return self.kept.get((voxels.start, voxels.stop)) or evidence_of_all(self.context, self.groups, Y)

    def compact(self) -> ConditionedContext:
        """Without the evidence that is kept at hand; it is gathered anew where it is needed.

        Returns
        -------
        ConditionedContext
        """
        return self._replace(kept={})


class _Seen(NamedTuple):
    groups: list[ExpertGroup]
    features: tuple[Tensor, ...]  # (LOCAL, c, v) of every batch of voxels
    scores: ExpertScores | None  # without those of all voxels
    kept: dict[tuple[int, int], list[Evidence]]
    summary: Summary


class Asked(NamedTuple):
    """New pictures, as far as they are alike for all voxels.

    Parameters
    ----------
    systems : list of tensor (t, k)
        Coordinates of the pictures by system of eigenvectors.
    factors : tensor (t, f)
        What the variance within experts is a product with; `Told` has the other factors, in this order.
    """

    systems: list[Tensor]
    factors: Tensor


class Told(NamedTuple):
    """Voxels, as far as they are alike for all new pictures.

    Parameters
    ----------
    systems : list of (tensor (v, k), tensor (v,))
        By system of eigenvectors: weights of its experts together over `root`, the square root of their share in all.
    factors : tensor (v, f)
        What the variance within experts is a product with.
    calibration : tensor ()
        Factor on the variance.
    """

    systems: list[tuple[Tensor, Tensor]]
    factors: Tensor
    calibration: Tensor

    def part(self, voxels: slice) -> Told:
        """Some of these voxels.

        Parameters
        ----------
        voxels : slice

        Returns
        -------
        Told
        """
        systems = [(scaled[voxels], root[voxels]) for scaled, root in self.systems]
        return Told(systems, self.factors[voxels], self.calibration)


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
    prior_embedding_covariance: Tensor  # zeros where it is not known
    odds: Tensor  # of the signal shares; what corrections of them go by

    def __init__(self, config: SharedContextConfig) -> None:
        super().__init__()
        self.config = config
        self._prior: list[Prior] = []
        if config.features:
            priors = 1 + config.components
            self.register_buffer("prior_means", torch.zeros(priors, config.features))
            eye = torch.eye(config.features) / config.features
            self.register_buffer("prior_covariances", eye.repeat(priors, 1, 1))
            self.register_buffer("prior_log_weights", torch.zeros(priors))
            self.register_buffer("prior_shares", torch.full((len(SIGNAL_SHARES),), 1 / len(SIGNAL_SHARES)))
            self.register_buffer("prior_embedding_covariance", torch.zeros(config.features, config.features))
        odds = torch.logit(torch.as_tensor(SIGNAL_SHARES)).float() / 4
        self.register_buffer("odds", odds, persistent=False)
        self.embed = nn.Sequential(
            nn.Linear(LOCAL + common_width(config), config.hidden), nn.SiLU(), nn.Linear(config.hidden, config.width)
        )
        self.gate = nn.ModuleList(  # the set transformer; stored weights have this name
            TinySetBlock(config.width, config.heads, config.hidden) for _ in range(config.layers)
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
        self._prior = [gaussian] + ([mixture] if mixture is not None else [])
        for name in PRIOR_PARTS[:-1]:
            parts = [torch.as_tensor(getattr(prior, name)) for prior in self._prior]
            getattr(self, f"prior_{name}").copy_(torch.cat(parts))
        self.prior_shares.copy_(torch.as_tensor(gaussian.shares))
        known = gaussian.embedding_covariance
        self.prior_embedding_covariance.copy_(torch.zeros(()) if known is None else torch.as_tensor(known))

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(*args, **options)
        self._prior = []

    def _priors(self) -> list[Prior]:
        """The Gaussian population prior and, where there is one, the mixture: on the CPU, whatever the device."""
        if self.config.features and not self._prior:
            stored = {name: getattr(self, f"prior_{name}").cpu().double().numpy() for name in PRIOR_PARTS}
            known = self.prior_embedding_covariance.cpu().double().numpy()
            alike = {"shares": stored.pop("shares"), "embedding_covariance": known if known.any() else None}
            cut = [slice(0, 1), slice(1, None)][: 1 + bool(self.config.components)]
            self._prior = [Prior(**alike, **{n: values[part] for n, values in stored.items()}) for part in cut]
        return self._prior

    def gaussian_prior(self) -> Prior | None:
        """The Gaussian population prior of the training subjects.

        Returns
        -------
        Prior or None
            None for a network that was trained without one.
        """
        return self._priors()[0] if self.config.features else None

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
        shares = self._log_share_prior().detach().cpu().double().softmax(dim=0).numpy()
        return Prior(np.zeros(1), prior.means, prior.covariances, shares)

    # The image side: once per context, on the CPU in float64.

    def _experts(self, context: Context) -> list[Expert]:
        experts = []
        if self.config.features:
            gaussian, *mixtures = self._priors()
            mean, basis = (
                torch.as_tensor(gaussian.means[0]),
                context.add_basis(torch.as_tensor(gaussian.covariances[0])),
            )
            signal = float(gaussian.shares @ SIGNAL_SHARES)
            for factor in self.config.scales:
                experts.append(context.gaussian("population", mean, basis, signal=factor * signal))
            for shrinkage, mean_scale in ((0.0, 1.0), *self.config.relaxations):
                experts.append(context.gaussian("population", mean, basis, shrinkage, mean_scale))
            for mixture in mixtures:
                for own, covariance in zip(mixture.means, mixture.covariances, strict=True):
                    basis = context.add_basis(torch.as_tensor(covariance))
                    experts.append(context.gaussian("mixture", torch.as_tensor(own), basis))
        signals = (0.0, *self.config.signals)
        generic = [context.generic(power, signal) for signal in signals for power in self.config.powers]
        return in_groups(experts + generic)

    def summarise(self, X: Float[Tensor, "n e"], Y: Float[Tensor, "n v"], voxel_batch: int = 2048) -> Summary:
        """Average features of every expert, and how well it predicts.

        Parameters
        ----------
        X, Y, voxel_batch
            As in `condition`.

        Returns
        -------
        Summary
        """
        _, _, seen = self._look(X, Y, voxel_batch)
        return seen.summary

    def condition(
        self, X: Float[Tensor, "n e"], Y: Float[Tensor, "n v"], voxel_batch: int = 2048, summary: Summary | None = None
    ) -> ConditionedContext:
        """Solve all experts on a context and gather what the set transformer sees of each voxel.

        Parameters
        ----------
        X : tensor (n, E)
            On the CPU.
        Y : tensor (n, V)
            Standardised on the context, where the network is.
        voxel_batch : int
            Voxels that are worked on at once.
        summary : Summary, optional
            Of all voxels of the subject, where Y has only some of them. None: Y has all.

        Returns
        -------
        ConditionedContext

        Raises
        ------
        ModelError
            X has another width than the population prior.
        """
        context, experts, seen = self._look(X, Y, voxel_batch)
        summary = summary or seen.summary
        means, of_all = summary.values[:, :LOCAL], summary.values[:, LOCAL]
        common = common_features(self.config, experts, means, len(X), summary.voxels)
        scores = None
        if seen.scores is not None:
            whole = of_all.expand(len(seen.scores.scores), -1)[..., None]
            scores = seen.scores._replace(scores=torch.cat([seen.scores.scores, whole], dim=-1))
        tiles = [tile for part in seen.features for tile in part.split(TILE, dim=2)]
        corrections = torch.cat([self.corrections(tile, common) for tile in tiles], dim=2)
        own_means = torch.stack([expert.mean_weights for expert in experts]).to(Y)
        rows = context.read_outs() if context.few_systems else context.bases
        return ConditionedContext(
            context, experts, seen.groups, torch.cat([*rows, own_means]), own_means, context.offset.to(Y),
            self._log_prior(experts).to(Y), corrections, scores, seen.kept, summary.noise,
        )  # fmt: skip

    @torch.no_grad()
    def _look(self, X: Tensor, Y: Tensor, voxel_batch: int) -> tuple[Context, list[Expert], _Seen]:
        """What every expert says of every voxel, as far as it is kept."""
        self.check_features(X.shape[1])
        context = Context(X)
        experts = self._experts(context)
        log_shares = self._log_shares(experts) if self.config.leave_one_out else None
        groups = group_experts(experts, len(X), Y, log_shares=log_shares)
        context.lower(Y)
        parts, kept, left = [], {}, KEPT_VALUES
        for voxels in batches(Y.shape[1], voxel_batch):
            part = Y[:, voxels]
            found = evidence_of_all(context, groups, part)
            parts.append(pair_features(context, groups, found, part, self.config.leave_one_out))
            left -= sum(values.numel() for of_group in found for values in of_group)
            if left > 0:
                kept[voxels.start, voxels.stop] = found
        features, likely, predictive, noise = zip(*parts, strict=True)
        means = torch.stack([part.sum(dim=2) for part in features]).sum(dim=0).T / Y.shape[1]
        scores, of_all = None, torch.zeros_like(means[:, 0])
        if self.config.leave_one_out:
            scores = score_experts(torch.cat(likely), torch.cat(predictive), *self._mixture(experts))
            of_all = scores.scores[..., 1].mean(dim=0)
        voxels_noise = torch.stack(noise).sum(dim=0) / Y.shape[1]
        summary = Summary(Y.shape[1], torch.cat([means, of_all[:, None]], dim=1), voxels_noise)
        return context, experts, _Seen(groups, features, scores, kept, summary)

    def _mixture(self, experts: list[Expert]) -> tuple[slice, Tensor | None]:
        """Which experts are components of the mixture, and their log weights."""
        kinds = [expert.kind for expert in experts]
        start = kinds.index("mixture") if "mixture" in kinds else 0
        return slice(start, start + kinds.count("mixture")), self.prior_log_weights[1:] if start else None

    # The voxel side: any batch of voxels.

    def corrections(self, features: Float[Tensor, "l c v"], common: Float[Tensor, "c f"]) -> Float[Tensor, "two c v"]:
        """Learned corrections of voxels: to the log weight of every expert, and to the log-odds of its signal share.

        Parameters
        ----------
        features : tensor (LOCAL, c, v)
            From `braincl.models.expert_features.pair_features`.
        common : tensor (c, f)
            Those that are alike for all voxels, from `braincl.models.expert_features.common_features`.

        Returns
        -------
        tensor (2, c, v)
        """
        first, activation, second = self.embed
        assert isinstance(first, nn.Linear)
        assert isinstance(second, nn.Linear)
        own, alike = first.weight.split([LOCAL, common.shape[1]], dim=1)
        hidden = (own @ features.flatten(1)).view(-1, *features.shape[1:])
        hidden.add_(torch.addmm(first.bias[:, None], alike, common.T)[..., None])
        tokens = apply(second.weight, second.bias, activation(hidden))
        for layer in self.gate:
            tokens = layer(tokens)
        return normed(self.norm, self.read_out.weight, self.read_out.bias, tokens)

    def weights(
        self, conditioned: ConditionedContext, found: list[Evidence], voxels: slice
    ) -> list[Float[Tensor, "v c h"]]:
        """Weights of experts and noise levels.

        Parameters
        ----------
        conditioned : ConditionedContext
        found : list of Evidence
            Of these voxels, by group.
        voxels : slice

        Returns
        -------
        list of tensor (v, c, h)
            One for each group; together they sum to one for every voxel.
        """
        level, share = conditioned.corrections[:, :, voxels]
        told = self._log_shares(conditioned.experts)
        if conditioned.scores is not None:  # the evidence holds them
            told = told - told.detach() * self.temper.exp()
        by_share = torch.addcmul(told[..., None], share[:, None], self.odds[:, None]).movedim(-1, 0)
        level = level.T + conditioned.log_prior
        if conditioned.scores is None:
            by_share = by_share + level[..., None]
        members = [group.members for group in conditioned.groups]
        logits = [
            torch.addcmul(by_share[:, places], of_group.log_likelihood, self.temper.exp())
            for places, of_group in zip(members, found, strict=True)
        ]
        if conditioned.scores is None:
            joint = torch.cat([part.flatten(1) for part in logits], dim=1).softmax(dim=1)
            parts = torch.split(joint, [part[0].numel() for part in logits], dim=1)
            return [weights.view_as(part) for weights, part in zip(parts, logits, strict=True)]
        scores, within_mixture = (part[voxels] for part in conditioned.scores)
        among = (level + within_mixture + scores @ self.trust).softmax(dim=1).clamp(min=LEAST_SHARE)
        share = 0.0 if self.training else self.config.prior_ridge_share  # training is about what the network adds
        among = among * (1 - share)
        weights = [posterior(part, among[:, places]).weights for part, places in zip(logits, members, strict=True)]
        if share:  # population-prior ridge is the first expert at its most likely noise level
            weights[0][:, :1] += share * most_likely_level(found[0].log_likelihood[:, :1])
        return weights

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
        mixture = [expert.kind == "mixture" for expert in experts]
        if self.config.leave_one_out:
            return torch.tensor([0.0 if inside or not any(mixture) else -2.0 for inside in mixture])
        prior = torch.tensor([0.0] + [-4.0] * (len(experts) - 1))
        if any(mixture):
            prior[torch.tensor(mixture)] = torch.as_tensor(self._priors()[1].log_weights, dtype=torch.float32)
        return prior

    def emit(
        self, conditioned: ConditionedContext, Y: Float[Tensor, "n v"], voxels: slice,
        scale: Float[Tensor, "v"] | None = None, out: Tensor | None = None,
    ) -> tuple[Float[Tensor, "v e"], Float[Tensor, "v"]]:  # fmt: skip
        """Encoder weights and biases of a batch of voxels.

        Parameters
        ----------
        conditioned : ConditionedContext
        Y : tensor (n, v)
            Of these voxels only.
        voxels : slice
        scale : tensor (v,), optional
            Of the voxels' responses, whose units weights and biases get; None: they are for standardised responses.
        out : tensor (v, E), optional
            What weights are written to.

        Returns
        -------
        weights : tensor (v, E)
        bias : tensor (v,)
        """
        if conditioned.context.few_systems:
            duals, means = self._solve(conditioned, Y, voxels)
        else:
            on_images, means = self.read_through(conditioned, Y, voxels)
            duals = [on_images.flatten(1)]
        amounts = torch.cat([*duals, means], dim=1)
        if scale is not None:
            amounts.mul_(scale[:, None])
        bias = amounts @ (conditioned.rows @ conditioned.offset)
        return torch.mm(amounts, conditioned.rows, out=out), -bias

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
        context = conditioned.context
        of_systems, means = self._solve(conditioned, Y, voxels)
        duals = Y.new_zeros(Y.shape[1], len(context.bases), len(Y))
        for dual, (vectors, mix) in zip(of_systems, context.systems, strict=True):
            on_images = dual @ vectors.T
            for basis, factor in mix:
                duals[:, basis].add_(on_images, alpha=factor)
        return duals, means

    def _solve(self, conditioned: ConditionedContext, Y: Tensor, voxels: slice) -> tuple[list[Tensor], Tensor]:
        """Amounts of every system's eigenvectors (v, k), and of every expert's mean (v, c)."""
        groups, found = conditioned.groups, conditioned.evidence(Y, voxels)
        weights = self.weights(conditioned, found, voxels)
        solved = [read_through(*parts) for parts in zip(groups, found, weights, strict=True)]
        duals = []
        for index in range(len(conditioned.context.systems)):
            first, *others = [dual for group, (dual, _) in zip(groups, solved, strict=True) if group.system == index]
            duals.append(sum(others, first))
        return duals, torch.cat([means for _, means in solved], dim=1)

    def noise_sums(self, conditioned: ConditionedContext) -> Tensor | None:
        """How the noise of a context goes with what is predicted.

        Parameters
        ----------
        conditioned : ConditionedContext

        Returns
        -------
        tensor (n, 2) or None
        """
        return conditioned.noise

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

    def ask(self, conditioned: ConditionedContext, queries: Float[Tensor, "t e"]) -> Asked:
        """What of new pictures is alike for all voxels.

        Parameters
        ----------
        conditioned : ConditionedContext
        queries : tensor (t, E)
            On the CPU.

        Returns
        -------
        Asked
        """
        context, experts = conditioned.context, conditioned.experts
        centred = queries.double() - context.offset
        low = centred.to(conditioned.offset)
        read = [low @ basis.T for basis in context.bases]
        systems, factors = [], []
        for index in range(len(context.systems)):
            groups = [group for group in conditioned.groups if group.system == index]
            members = [expert for group in groups for expert in experts[group.members]]
            first, mean = members[0], None
            if first.kind == "generic":
                firsts = {expert.strength: expert for expert in reversed(members)}
                of_powers = {power: context.prior_variance(expert, centred) for power, expert in firsts.items()}
                priors = torch.stack([of_powers[expert.strength] for expert in members], dim=1)
            else:  # they differ in their means only
                mean = low @ (conditioned.means[groups[0].members][0] / (first.mean_scale or 1.0))
                priors = context.prior_variance(first, centred)[:, None].expand(-1, len(members))
            coordinates = context.coordinates(index, read, mean)
            squares = coordinates.square()
            if len(members) == 1:  # what the context explains, by noise level
                levels = _explained(groups[0])
                squares = squares[:, : levels.shape[1]] @ levels.T
            factors += [squares, priors.to(low), torch.ones_like(low[:, :1])]
            systems.append(coordinates)
        return Asked(systems, torch.cat(factors, dim=1))

    def tell(self, conditioned: ConditionedContext, Y: Float[Tensor, "n v"], voxels: slice) -> Told:
        """What of a batch of voxels is alike for all new pictures.

        Parameters
        ----------
        conditioned : ConditionedContext
        Y : tensor (n, v)
            Of these voxels only.
        voxels : slice

        Returns
        -------
        Told
        """
        found = conditioned.evidence(Y, voxels)
        weights = self.weights(conditioned, found, voxels)
        members = list(zip(conditioned.groups, found, weights, strict=True))
        systems, factors = [], []
        for index in range(len(conditioned.context.systems)):
            together, mass, own = _spread([part for part in members if part[0].system == index], 1 + 1 / len(Y))
            root = mass.sqrt()
            systems.append((together / root[:, None], root))
            factors += own
        calibration = torch.exp(2 * (self.std_scale[0] + self.std_scale[1] * (math.log(len(Y)) / 5 - 1)))
        return Told(systems, torch.cat(factors, dim=1), calibration)

    def predictive_moments(self, told: Told, asked: Asked) -> tuple[Float[Tensor, "t v"], Float[Tensor, "t v"]]:
        """Mean and variance of new standardised responses, noise included.

        By the law of total variance. Experts that share eigenvectors differ by so little that their spread is taken in
        expectation: products of a query's different coordinates count as 0. (Between all experts lies about a hundredth
        of the variance.)

        Parameters
        ----------
        told : Told
            Of voxels.
        asked : Asked
            Of the new pictures.

        Returns
        -------
        mean, variance : tensor (t, v)
        """
        variance = (told.calibration * asked.factors) @ told.factors.T
        mean, between = None, None
        for coordinates, (scaled, root) in zip(asked.systems, told.systems, strict=True):
            part = coordinates @ scaled.T
            mean = part * root if mean is None else mean.addcmul_(part, root)
            between = part.square() if between is None else between.addcmul_(part, part)
        assert mean is not None
        assert between is not None
        if len(told.systems) > 1:
            variance = variance.addcmul_(between.addcmul_(mean, mean, value=-1), told.calibration)
        return mean, variance.clamp_(min=1e-6)


def _explained(group: ExpertGroup) -> Float[Tensor, "ch k"]:
    """How much of a query's squared coordinates the context explains, at every noise level of every expert."""
    return (group.inverse * group.gain.square()[:, None]).flatten(0, 1)


def _spread(
    members: list[tuple[ExpertGroup, Evidence, Tensor]], noise_factor: float
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Weights (v, k) of the experts of a system together, their share (v,) in all, and what their variance is made of.

    Of several experts it is one number a coordinate, their spread less what the context explains; of a single one,
    which has no spread, one a noise level.
    """
    several = sum(len(group.gain) for group, _, _ in members) > 1
    zero = members[0][2].new_zeros(())
    together, mass, squares, noise = zero, zero, zero, zero
    power, explained = [], []
    for group, found, weight in members:
        shares = weight.sum(dim=2).clamp(min=1e-12)
        for c in range(len(group.gain)):  # one by one: what a batch of voxels needs stays in the processor's cache
            own, share = read_out(group, solve(group, found, weight, c), c), shares[:, c]
            together, mass = together + own, mass + share
            if several:
                squares = torch.addcmul(squares, own, own / share[:, None])
        of_levels = weight * squared_scale(group, found)
        power.append(of_levels.sum(dim=2))
        of_levels = of_levels.flatten(1)
        noise = noise + of_levels @ group.ratio.flatten() * noise_factor
        explained.append(of_levels @ _explained(group) if several else of_levels)
    taken = sum(explained[1:], explained[0])
    within = -taken
    if several:
        within = squares - together.square() / mass[:, None]
        within[:, : taken.shape[1]] -= taken
    return together, mass, [within, *power, noise[:, None]]
