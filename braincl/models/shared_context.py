"""The shared-context network: closed-form experts over a context, gated per voxel by a set transformer.

The image side of a context is solved once per subject: one eigendecomposition per expert (`braincl.models.experts`),
shared by all voxels. Experts are the population prior of the training subjects, the same prior trusted less, the
components of a mixture prior, and generic priors that need no training subject. A voxel's weights over an expert's
noise levels are exact Bayes plus a learned correction; those over experts start from what each predicts on the context
(`braincl.models.expert_scores`), for the voxel and for all voxels: every (voxel, expert) pair is a token, experts
attend to each other, and subject-wide averages tell each voxel how its neighbours fared. Untrained, the network is near
population-prior (or generic) ridge with its noise integrated out.

The encoder that comes out is linear: ``w_v = sum_c p_vc (s_vc mu_c + Sigma_c A' a_vc)``.

Axes: n context image, t query image, E feature, V voxel, c expert, h signal share, q relative scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from braincl.errors import ModelError
from braincl.models.config import KINDS, SharedContextConfig
from braincl.models.expert_scores import START, Judgement, judge
from braincl.models.experts import SCALES, Context, Evidence, Expert, evidence, leave_one_out, signal_shares, solve
from braincl.models.prior import SIGNAL_SHARES, Prior
from braincl.models.set_attention import TinySetAttention
from setcore.blocks import SelfAttentionBlock

GRID_POINTS = len(SIGNAL_SHARES) * SCALES
KEPT_VALUES = 2**26  # 256 MB of evidence is kept between reading a context and emitting weights
LOCAL, GLOBAL = 5, 4  # features of a (voxel, expert) pair, and of the context


class ConditionedContext(NamedTuple):
    """A context as the network has read it: what `emit` and `moments` need for any batch of its voxels."""

    context: Context
    experts: list[Expert]
    features: Tensor  # (V, c, LOCAL)
    mean_features: Tensor  # (c, LOCAL), over all voxels
    judgement: Judgement | None  # where experts are judged by what they predict
    found: dict[tuple[int, int], list[Evidence]]  # of batches of voxels, as far as memory allows

    def evidence(self, Y: Tensor, voxels: slice) -> list[Evidence]:
        """What every expert says of a batch of voxels, Y (n, V) being theirs."""
        return self.found.get((voxels.start, voxels.stop)) or all_evidence(self.context, self.experts, Y)


class SharedContextNetwork(nn.Module):
    """See the module. Responses are standardised per voxel on the context by the caller.

    Parameters
    ----------
    config : SharedContextConfig
    """

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
        inputs = 2 * LOCAL + GLOBAL + len(KINDS) + 3 + 2 * bool(config.scales or config.signals)
        self.embed = nn.Sequential(nn.Linear(inputs, config.hidden), nn.SiLU(), nn.Linear(config.hidden, config.width))
        self.gate = nn.ModuleList(  # the set transformer; stored weights have this name
            SelfAttentionBlock(config.width, config.heads, config.hidden, attention=TinySetAttention)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.read_out = nn.Linear(config.width, 2)
        nn.init.zeros_(self.read_out.weight)
        nn.init.zeros_(self.read_out.bias)
        if config.judged:
            self.trust = nn.Parameter(torch.tensor(START))
        self.share_logits = nn.Parameter(torch.zeros(len(SIGNAL_SHARES)))
        self.temper = nn.Parameter(torch.zeros(()))  # log of the power that evidence is raised to
        self.std_scale = nn.Parameter(torch.zeros(2))  # log factor on the standard deviation, and its slope in log n

    def set_prior(self, gaussian: Prior, mixture: Prior | None = None) -> None:
        """Store the population prior of the training subjects."""
        if gaussian.n_features != self.config.features:
            raise ModelError(f"the prior has {gaussian.n_features} features, the network {self.config.features}")
        parts = [gaussian] + ([mixture] if mixture is not None else [])
        self.prior_means.copy_(torch.cat([torch.as_tensor(p.means) for p in parts]))
        self.prior_covariances.copy_(torch.cat([torch.as_tensor(p.covariances) for p in parts]))
        self.prior_log_weights.copy_(torch.cat([torch.as_tensor(p.log_weights) for p in parts]))
        self.prior_shares.copy_(torch.as_tensor(gaussian.shares))

    def gaussian_prior(self) -> Prior | None:
        """The population prior that the network holds, or None."""
        if not self.config.features:
            return None
        first = (self.prior_log_weights[:1], self.prior_means[:1], self.prior_covariances[:1], self.prior_shares)
        return Prior(*(tensor.double().numpy() for tensor in first))

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
    def read(self, X: Float[Tensor, "n e"], Y: Float[Tensor, "n v"], voxel_batch: int = 1024) -> ConditionedContext:
        """Solve all experts on a context and gather what each voxel's gate looks at.

        Raises
        ------
        ModelError
            X has another width than the population prior.
        """
        if self.config.features and X.shape[1] != self.config.features:
            raise ModelError(
                f"the embeddings have {X.shape[1]} features, the model was trained on {self.config.features}; "
                "use the same image encoder, or a model without a population prior"
            )
        context = Context(X)
        experts = [expert.to(Y.dtype) for expert in self._experts(context)]
        context.lower(Y.dtype)
        features, scores, kept = [], [], {}
        size = len(experts) * GRID_POINTS + 2 * sum(system.vectors.shape[1] for system in context.systems)
        for part in batches(Y.shape[1], voxel_batch):
            found = all_evidence(context, experts, Y[:, part])
            of_part, of_experts = self._features(context, experts, found, Y[:, part])
            features.append(of_part)
            scores.append(of_experts)
            if part.stop * size <= KEPT_VALUES:
                kept[part.start, part.stop] = found
        seen, judgement = torch.cat(features), None
        if self.config.judged:
            likely, predictive = torch.cat(scores).unbind(dim=-1)
            judgement = judge(likely, predictive, *self._mixture(experts))
        return ConditionedContext(context, experts, seen, seen.mean(dim=0), judgement, kept)

    def _mixture(self, experts: list[Expert]) -> tuple[list[int], Tensor]:
        """Which experts are components of the mixture, and their log weights."""
        members = [c for c, expert in enumerate(experts) if expert.kind == "mixture"]
        return members, self.prior_log_weights[1:] if members else torch.zeros(0)

    def _features(
        self, context: Context, experts: list[Expert], evidences: list[Evidence], Y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What a voxel's gate sees of each expert (V, c, LOCAL), the first expert being the start; and its scores.

        Log evidence and leave-one-out gain over the start, the gain itself, signal share, degrees of freedom an image.
        Scores (V, c, 2): log evidence, leave-one-out log likelihood.
        """
        log_evidence, residuals, share, freedom = [], [], [], []
        before = self._log_shares(experts) if self.config.judged else torch.zeros(len(experts), 1)
        for expert, found, log_shares in zip(experts, evidences, before, strict=True):
            log_likelihood = (found.log_likelihood + log_shares[:, None]).flatten(1)
            weights = log_likelihood.softmax(dim=1)
            top = log_likelihood.max(dim=1, keepdim=True)  # the evidence is its likelihood over its posterior weight
            found_evidence = (top.values - weights.gather(1, top.indices).log())[:, 0]
            log_evidence.append(found_evidence - math.log(found.grid.scale.shape[1]))  # scales are alike before it
            residual, total = leave_one_out(
                expert, found, weights.view_as(found.log_likelihood), context.systems[expert.system].vectors, Y
            )
            residuals.append(residual)
            share.append(total @ signal_shares(expert, found.grid, len(Y)))
            freedom.append((total @ (expert.eigenvalues * found.inverse).sum(dim=1)) / len(Y))
        likely, residual = torch.stack(log_evidence, dim=1), torch.stack(residuals, dim=1)
        predictive = -0.5 * len(Y) * residual.clamp(min=1e-6).log()
        gains = (1 - residual).clamp(min=-1)
        over_start = (predictive - predictive[:, :1]) / 10 if self.config.judged else gains - gains[:, :1]
        parts = (
            ((likely - likely[:, :1]) / 10).clamp(-5, 5), gains, over_start.clamp(-5, 5),
            torch.stack(share, dim=1), torch.stack(freedom, dim=1),
        )  # fmt: skip
        return torch.stack(parts, dim=-1), torch.stack([likely, predictive], dim=-1)

    # The voxel side: any batch of voxels.

    def corrections(self, reading: ConditionedContext, voxels: slice) -> Float[Tensor, "v c two"]:
        """Learned corrections per voxel and expert: to the log weight, and to the log-odds of the signal share."""
        features = reading.features[voxels]
        images, rank = len(reading.context.A), len(reading.experts[-1].eigenvalues)  # rank: E counts empty directions
        count = len(reading.features)
        overall = torch.tensor([math.log(images) / 5, math.log(count) / 8, math.log(rank) / 6, math.log(images / rank)])
        known = 2 * bool(self.config.scales or self.config.signals)
        kinds = torch.zeros(len(reading.experts), len(KINDS) + 3 + known)
        for c, expert in enumerate(reading.experts):
            kinds[c, KINDS.index(expert.kind)] = 1
            kinds[c, len(KINDS) : len(KINDS) + 3] = torch.tensor([expert.strength, expert.mean_scale, float(c == 0)])
            if expert.signal:
                level = expert.signal if expert.kind == "generic" else self.config.scales[c]
                kinds[c, -2:] = torch.tensor([1.0, math.log2(level)])
        alike = torch.cat([reading.mean_features, overall.expand(len(kinds), -1), kinds], dim=1)  # for all voxels
        first, *others = self.embed
        assert isinstance(first, nn.Linear)
        own, common = first.weight.split([LOCAL, alike.shape[1]], dim=1)
        tokens = features @ own.T + (alike.to(features.dtype) @ common.T + first.bias)
        for layer in others:
            tokens = layer(tokens)
        for block in self.gate:
            tokens = block(tokens)
        return self.read_out(self.norm(tokens))

    def weights(
        self, reading: ConditionedContext, found: list[Evidence], voxels: slice
    ) -> list[Float[Tensor, "v h q"]]:
        """Posterior over signal share and scale, one tensor an expert; over all of them it sums to one per voxel."""
        correction = self.corrections(reading, voxels)
        odds = torch.logit(torch.as_tensor(SIGNAL_SHARES, dtype=correction.dtype)) / 4
        by_share = self._log_shares(reading.experts) + correction[..., 1:] * odds
        level = correction[..., 0] + self._log_prior(reading.experts).to(correction.dtype)
        if reading.judgement is None:
            by_share = by_share + level[..., None]
        logits = [
            torch.addcmul(of_expert[..., None], evidence.log_likelihood, self.temper.exp())
            for of_expert, evidence in zip(by_share.unbind(dim=1), found, strict=True)
        ]
        if reading.judgement is None:
            joint = torch.cat([part.flatten(1) for part in logits], dim=1).softmax(dim=1)
            sizes = [part[0].numel() for part in logits]
            return [weights.view_as(part) for weights, part in zip(joint.split(sizes, dim=1), logits, strict=True)]
        scores, inside = (part[voxels] for part in reading.judgement)
        among = (level + inside + scores @ self.trust).softmax(dim=1)
        return [
            part.flatten(1).softmax(dim=1).view_as(part) * share[:, None, None]
            for part, share in zip(logits, among.unbind(dim=1), strict=True)
        ]

    def _log_shares(self, experts: list[Expert]) -> Float[Tensor, "c h"]:
        """Log weight of each noise level of each expert before any evidence; even where the signal is known."""
        even = torch.full_like(self.share_logits, -math.log(len(SIGNAL_SHARES)))
        return torch.stack([even if expert.signal else self.log_share_prior() for expert in experts])

    def log_share_prior(self) -> Float[Tensor, "h"]:
        """Log weight of each share of signal before any evidence, up to a constant."""
        if self.config.features:
            return self.share_logits + self.prior_shares.log()
        return self.share_logits - (math.log(len(SIGNAL_SHARES)) if self.config.judged else 0)

    def _log_prior(self, experts: list[Expert]) -> Tensor:
        """Log weight of each expert before any evidence.

        The start first, the others held back until trained; where experts are judged by their predictions it takes
        less to hold them back, and the mixture, which is there only if it predicted training subjects better, is first.
        """
        mixture = torch.tensor([expert.kind == "mixture" for expert in experts])
        if self.config.judged:
            return torch.where(mixture, 0.0, -2.0 if mixture.any() else 0.0)
        prior = torch.full((len(experts),), -4.0)
        prior[0] = 0.0
        if mixture.any():
            prior[mixture] = self.prior_log_weights[1:]
        return prior

    def emit(self, reading: ConditionedContext, Y: Float[Tensor, "n v"], voxels: slice) -> Float[Tensor, "v e"]:
        """Encoder weights of a batch of voxels; Y holds these voxels only."""
        duals, means = self.read_through(reading, Y, voxels)
        mean_weights = torch.stack([expert.mean_weights for expert in reading.experts])
        return torch.cat([duals.flatten(1), means], dim=1) @ torch.cat([*reading.context.bases, mean_weights])

    def read_through(
        self, reading: ConditionedContext, Y: Float[Tensor, "n v"], voxels: slice
    ) -> tuple[Float[Tensor, "v b n"], Float[Tensor, "v c"]]:
        """What encoder weights are sums of: amounts of every picture in every basis, and of every expert's mean."""
        context, found = reading.context, reading.evidence(Y, voxels)
        weights = self.weights(reading, found, voxels)
        means, of_systems = [], [torch.zeros(()) for _ in context.systems]
        for c, expert in enumerate(reading.experts):
            solution = solve(expert, found[c], weights[c])
            means.append(solution.mean_coefficient)
            of_systems[expert.system] = of_systems[expert.system] + solution.dual * expert.gain
        duals = Y.new_zeros(Y.shape[1], len(context.bases), len(Y))
        for system, dual in zip(context.systems, of_systems, strict=True):
            on_images = dual @ system.vectors.T
            for basis, factor in system.mix:
                duals[:, basis].add_(on_images, alpha=factor)
        return duals, torch.stack(means, dim=1)

    def moments(
        self, reading: ConditionedContext, Y: Float[Tensor, "n v"], voxels: slice, queries: Float[Tensor, "t e"]
    ) -> tuple[Float[Tensor, "v t"], Float[Tensor, "v t"]]:
        """Mean and variance of new standardised responses to queries (t, E), noise included."""
        context, experts = reading.context, reading.experts
        centred = queries.double() - context.offset
        low = centred.to(Y.dtype)
        read = [low @ basis.T for basis in context.bases]
        crosses = [context.mixed(index, read) @ system.vectors for index, system in enumerate(context.systems)]
        found = reading.evidence(Y, voxels)
        weights = self.weights(reading, found, voxels)
        mean = torch.zeros(Y.shape[1], len(queries), dtype=Y.dtype)
        second, variance = torch.zeros_like(mean), torch.zeros_like(mean)
        for c, expert in enumerate(experts):
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


def all_evidence(context: Context, experts: list[Expert], Y: Float[Tensor, "n v"]) -> list[Evidence]:
    """What every expert says of a batch of voxels."""
    projections = context.project(Y)
    return [evidence(expert, len(Y), projections) for expert in experts]


def batches(voxels: int, voxel_batch: int) -> Iterator[slice]:
    """Slices that cover all voxels."""
    for start in range(0, voxels, voxel_batch):
        yield slice(start, min(start + voxel_batch, voxels))
