"""How a set transformer learns in context: linear regression, where the best possible answer is known.

    python benchmarks/braincl/in_context_learning.py [--quick] [--seed 0] [--json OUT.json]

A task is a vector of weights w ~ N(0, I / d); its context holds n pairs (x, y), x ~ N(0, I), y = w.x + noise. A network
of `setcore` blocks reads the context and gives mean and variance of y at new x. It is trained from nothing on tasks
that are drawn afresh at every step; nothing in it is changed for a new task. The Bayes optimum is ridge regression with
the penalty that noise and prior ask for. Four measurements, on tasks that nothing was trained or chosen on:

errors
    The network, ridge, least squares (of minimum norm) and 0, against n; n = 64 is twice the longest training context
    (Garg et al. 2022, arXiv 2208.01066).
layers
    The prediction read from the query's token after every layer by a linear readout, beside gradient descent on
    ridge's objective. Its step size is the best one for that number of steps (von Oswald et al. 2022, arXiv 2212.07677;
    Akyürek et al. 2022, arXiv 2211.15661). Readouts and step sizes come from other tasks.
uncertainty
    The network's standard deviation and negative log likelihood beside those of the exact posterior predictive (Müller
    et al. 2022, arXiv 2112.10510).
diversity
    Networks trained on M fixed tasks, tested on new ones: do they predict as ridge, the optimum for all tasks, or as
    dMMSE, the optimum for the M of training (Raventós et al. 2023, arXiv 2306.15063)? With two lengths of training.

Errors are mean squares of the difference to w.x, which has variance 1; "excess" is the mean square of the difference to
ridge's prediction, by which a method's expected error exceeds ridge's. Intervals are standard errors over test tasks.
One thread; about a quarter of an hour, with `--quick` ten seconds (nothing is learned then).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from setcore.blocks import CrossAttentionBlock
from setcore.files import write_json
from setcore.seeding import derive_seed, numpy_generator, torch_generator
from setcore.training import warmup_cosine

sys.path.append(str(Path(__file__).resolve().parents[1]))
from bench_common import commit

FEATURES, NOISE = 8, 0.5
"""d, and the standard deviation of the noise; the signal's is 1."""
LONGEST, QUERIES, BATCH = 32, 16, 64
"""Pairs in the longest context of training, queries for each context, tasks in a step."""
WIDTH, HEADS, LAYERS, RATE = 48, 4, 5, 3e-3
SIZES, LAYER_SIZES, UNCERTAINTY_SIZES = (1, 2, 4, 6, 8, 12, 16, 24, 32, 64), (8, 16, 32), (1, 2, 4, 8, 16, 32)
DESCENT_STEPS, STEP_SIZES, RESAMPLED = 24, np.geomspace(0.1, 1, 24), 200
DIVERSITY_SIZE = 16
POINTS = 150
"""Single predictions whose standard deviation is stored, for each context size."""


class Budget(NamedTuple):
    """How long the networks train, how many tasks are measured, and the numbers of training tasks M."""

    steps: int = 5000
    diversity_steps: tuple[int, ...] = (300, 1200)
    tasks: int = 2000
    pools: tuple[int, ...] = (1, 4, 16, 64, 256, 1024)


QUICK = Budget(20, (5, 10), 50, (1, 4))


class Tasks(NamedTuple):
    """Axes: b task, n pair of the context, q query, d feature. `signal` is w.x of the queries, `target` their y."""

    X: Float[Tensor, "b n d"]
    y: Float[Tensor, "b n"]
    Q: Float[Tensor, "b q d"]
    target: Float[Tensor, "b q"]
    signal: Float[Tensor, "b q"]


def draw_weights(generator: torch.Generator, count: int) -> Float[Tensor, "count d"]:
    """Weights of tasks from the prior."""
    return torch.randn(count, FEATURES, generator=generator) / FEATURES**0.5


def draw_tasks(
    generator: torch.Generator, count: int, n: int, pool: Float[Tensor, "m d"] | None = None, queries: int = QUERIES
) -> Tasks:
    """Tasks with contexts of n pairs, from the prior or, equally often each, from the weights in `pool`."""
    if pool is None:
        weights = draw_weights(generator, count)
    else:
        weights = pool[torch.randint(len(pool), (count,), generator=generator)]
    x = torch.randn(count, n + queries, FEATURES, generator=generator)
    signal = torch.einsum("bnd,bd->bn", x, weights)
    y = signal + NOISE * torch.randn(signal.shape, generator=generator)
    return Tasks(x[:, :n], y[:, :n], x[:, n:], y[:, n:], signal[:, n:])


class InContextRegressor(nn.Module):
    """Pairs and queries are tokens (x, y, 0) and (x, 0, 1); in every layer all of them attend to the pairs.

    So no token sees a query, and any number of queries share a context. There are no positions: the order of the pairs
    doesn't matter.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(FEATURES + 2, WIDTH)
        self.layers = nn.ModuleList(CrossAttentionBlock(WIDTH, HEADS, 2 * WIDTH) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.readout = nn.Linear(WIDTH, 2)

    def query_tokens(
        self, X: Float[Tensor, "b n d"], y: Float[Tensor, "b n"], Q: Float[Tensor, "b q d"]
    ) -> list[Float[Tensor, "b q width"]]:
        """The queries' tokens as embedded, and after every layer."""
        n, hidden = X.shape[1], torch.zeros(*Q.shape[:2], 1)
        pairs = torch.cat([X, y[..., None], torch.zeros(*y.shape, 1)], dim=-1)
        tokens = self.embed(torch.cat([pairs, torch.cat([Q, hidden, hidden + 1], dim=-1)], dim=1))
        found = [tokens[:, n:]]
        for layer in self.layers:
            tokens = layer(tokens, tokens[:, :n])
            found.append(tokens[:, n:])
        return found

    def forward(
        self, X: Float[Tensor, "b n d"], y: Float[Tensor, "b n"], Q: Float[Tensor, "b q d"]
    ) -> tuple[Float[Tensor, "b q"], Float[Tensor, "b q"]]:
        """Mean and variance of the queries' y."""
        mean, log_variance = self.readout(self.norm(self.query_tokens(X, y, Q)[-1])).unbind(-1)
        return mean, log_variance.exp()


def negative_log_likelihood(
    y: Float[Tensor, "b q"], mean: Float[Tensor, "b q"], variance: Float[Tensor, "b q"]
) -> Float[Tensor, "b q"]:
    """Of a Gaussian, in nats."""
    return 0.5 * ((y - mean) ** 2 / variance + torch.log(2 * torch.pi * variance))


def train(
    steps: int, seed: int, longest: int = LONGEST, pool: Float[Tensor, "m d"] | None = None
) -> InContextRegressor:
    """A network trained on contexts of 1 to `longest` pairs; its loss is the negative log likelihood of the queries."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights"))
        network = InContextRegressor()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, betas=(0.9, 0.98))
    for step in range(steps):
        generator = torch_generator(seed, "step", step)
        n = int(torch.randint(1, longest + 1, (), generator=generator))
        tasks = draw_tasks(generator, BATCH, n, pool)
        loss = negative_log_likelihood(tasks.target, *network(tasks.X, tasks.y, tasks.Q)).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = RATE * warmup_cosine(step / steps)
        optimizer.step()
    return network


def ridge(tasks: Tasks) -> tuple[Float[Tensor, "b q"], Float[Tensor, "b q"]]:
    """Mean and variance of the exact posterior predictive: the Bayes optimum for tasks from the prior."""
    precision = tasks.X.mT @ tasks.X / NOISE**2 + FEATURES * torch.eye(FEATURES)
    covariance = torch.linalg.inv(precision)
    weights = covariance @ (tasks.X.mT @ tasks.y[..., None]) / NOISE**2
    return (tasks.Q @ weights)[..., 0], ((tasks.Q @ covariance) * tasks.Q).sum(-1) + NOISE**2


def least_squares(tasks: Tasks) -> Float[Tensor, "b q"]:
    """Of minimum norm where there are fewer pairs than features."""
    return (tasks.Q @ (torch.linalg.pinv(tasks.X.double()).float() @ tasks.y[..., None]))[..., 0]


def gradient_descent(tasks: Tasks, step_size: float, steps: int) -> Float[Tensor, "steps b q"]:
    """Predictions after 1, 2, ... steps on ``(|y - X w|^2 + NOISE^2 d |w|^2) / 2 n``, from w = 0."""
    n, weights, found = tasks.X.shape[1], torch.zeros(len(tasks.X), FEATURES, 1), []
    for _ in range(steps):
        gradient = tasks.X.mT @ (tasks.X @ weights - tasks.y[..., None]) + NOISE**2 * FEATURES * weights
        weights = weights - step_size * gradient / n
        found.append((tasks.Q @ weights)[..., 0])
    return torch.stack(found)


def discrete_mmse(tasks: Tasks, pool: Float[Tensor, "m d"]) -> Float[Tensor, "b q"]:
    """The Bayes optimum for tasks that are drawn from a pool of weights, equally often each (dMMSE)."""
    residuals = tasks.y[..., None] - tasks.X @ pool.T
    posterior = torch.softmax(-(residuals**2).sum(dim=1) / (2 * NOISE**2), dim=-1)
    return torch.einsum("bqd,bd->bq", tasks.Q, posterior @ pool)


def fit_readouts(network: InContextRegressor, tasks: Tasks) -> list[Float[Tensor, "width_1 1"]]:
    """For the embedding and every layer the linear readout (and offset) of w.x with the least squared error."""
    target = tasks.signal.reshape(-1, 1)
    found = network.query_tokens(tasks.X, tasks.y, tasks.Q)
    return [torch.linalg.lstsq(with_ones(tokens).flatten(0, 1), target).solution for tokens in found]


def with_ones(tokens: Float[Tensor, "b q width"]) -> Float[Tensor, "b q width_1"]:
    """A last column of ones."""
    return torch.cat([tokens, torch.ones(*tokens.shape[:2], 1)], dim=-1)


def interval(values: Float[Tensor, "b q"]) -> dict[str, float]:
    """Mean over tasks and queries, and its standard error over tasks."""
    return interval_of_tasks(values.double().mean(dim=1).numpy())


def interval_of_tasks(values: NDArray[np.float64]) -> dict[str, float]:
    """Mean and standard error of one value for each task."""
    return {"mean": float(values.mean()), "se": float(values.std(ddof=1) / np.sqrt(len(values)))}


def squared(prediction: Float[Tensor, "b q"], other: Float[Tensor, "b q"]) -> dict[str, float]:
    """Mean squared difference with its standard error."""
    return interval((prediction - other) ** 2)


def measure_errors(network: InContextRegressor, budget: Budget, seed: int) -> list[dict[str, Any]]:
    """One row a context size and method."""
    rows = []
    for n in SIZES:
        tasks = draw_tasks(torch_generator(seed, "errors", n), budget.tasks, n)
        best = ridge(tasks)[0]
        predictions = {
            "transformer": network(tasks.X, tasks.y, tasks.Q)[0],
            "ridge": best,
            "least squares": least_squares(tasks),
            "zero": torch.zeros_like(best),
        }
        for method, mean in predictions.items():
            rows.append({"n": n, "method": method, "error": squared(mean, tasks.signal), "excess": squared(mean, best)})
    return rows


def measure_layers(network: InContextRegressor, budget: Budget, seed: int) -> list[dict[str, Any]]:
    """One row a context size: the excess of every layer and number of steps, and how many steps a layer is worth."""
    found = []
    for n in LAYER_SIZES:
        readouts = fit_readouts(network, draw_tasks(torch_generator(seed, "readouts", n), budget.tasks, n))
        sizes = best_step_sizes(draw_tasks(torch_generator(seed, "step sizes", n), 5 * budget.tasks, n))
        tasks = draw_tasks(torch_generator(seed, "layers", n), budget.tasks, n)
        best = ridge(tasks)[0]

        tokens = network.query_tokens(tasks.X, tasks.y, tasks.Q)
        read = torch.stack([(with_ones(t) @ readout)[..., 0] for t, readout in zip(tokens, readouts, strict=True)])
        walked = [gradient_descent(tasks, size, k)[-1] for k, size in enumerate(sizes, 1)]
        walked.insert(0, torch.zeros_like(best))  # no step: the prediction is 0

        layers = ((read - best) ** 2).double().mean(dim=2).numpy()
        descent = ((torch.stack(walked) - best) ** 2).double().mean(dim=2).numpy()
        worth = [steps_worth(float(layer.mean()), descent.mean(axis=1)) for layer in layers]
        again = numpy_generator(seed, "resampled", n).integers(budget.tasks, size=(RESAMPLED, budget.tasks))
        spread = [[steps_worth(float(layer[i].mean()), descent[:, i].mean(axis=1)) for i in again] for layer in layers]
        found.append({
            "n": n, "network": squared(network(tasks.X, tasks.y, tasks.Q)[0], best), "step_sizes": sizes,
            "layers": [interval_of_tasks(layer) for layer in layers],
            "descent": [interval_of_tasks(step) for step in descent],
            "worth": [{"mean": w, "se": float(np.std(s, ddof=1))} for w, s in zip(worth, spread, strict=True)],
        })  # fmt: skip
    return found


def best_step_sizes(tasks: Tasks) -> list[float]:
    """For 1, 2, ... steps of gradient descent the step size with the least squared error after the last."""
    errors = torch.stack([
        ((gradient_descent(tasks, size, DESCENT_STEPS) - tasks.signal) ** 2).mean(dim=(1, 2)) for size in STEP_SIZES
    ])  # fmt: skip
    return [float(STEP_SIZES[k]) for k in errors.nan_to_num(torch.inf).argmin(dim=0)]


def steps_worth(excess: float, descent: NDArray[np.float64]) -> float:
    """Steps of gradient descent with the same excess, between two numbers of steps by its logarithm.

    No fewer than 0 and no more than were tried.
    """
    falling = np.minimum.accumulate(descent)
    return float(np.interp(-np.log(excess), -np.log(falling), np.arange(len(falling))))


def measure_uncertainty(network: InContextRegressor, budget: Budget, seed: int) -> list[dict[str, Any]]:
    """One row a context size: standard deviation and likelihood beside those of the exact posterior predictive."""
    rows = []
    for n in UNCERTAINTY_SIZES:
        tasks = draw_tasks(torch_generator(seed, "uncertainty", n), budget.tasks, n)
        mean, variance = network(tasks.X, tasks.y, tasks.Q)
        exact_mean, exact_variance = ridge(tasks)
        own = negative_log_likelihood(tasks.target, mean, variance)
        exact = negative_log_likelihood(tasks.target, exact_mean, exact_variance)
        inside = (tasks.target - mean).abs() < 1.959964 * variance.sqrt()
        logs = torch.stack([variance.log().flatten(), exact_variance.log().flatten()])
        rows.append({
            "n": n, "std": interval(variance.sqrt()), "exact_std": interval(exact_variance.sqrt()),
            "ratio": interval((variance / exact_variance).sqrt()), "log_std_r": float(torch.corrcoef(logs)[0, 1]),
            "nll": interval(own), "exact_nll": interval(exact), "nll_excess": interval(own - exact),
            "coverage_95": interval(inside.float()),
            "points": [[round(float(v[task, 0]) ** 0.5, 4) for v in (exact_variance, variance)]
                       for task in range(min(POINTS, budget.tasks))],
        })  # fmt: skip
    return rows


def measure_diversity(budget: Budget, steps: int, seed: int) -> list[dict[str, Any]]:
    """One row a number of training tasks M (the last: tasks without end), on new tasks and on those of training."""
    weights = draw_weights(torch_generator(seed, "pool"), max(budget.pools))
    rows = []
    for count in (*budget.pools, None):
        pool = None if count is None else weights[:count]
        network = train(steps, derive_seed(seed, "diversity"), DIVERSITY_SIZE, pool).eval()
        row: dict[str, Any] = {"M": count}
        with torch.no_grad():
            for place, source in (("new", None), ("training", pool)):
                tasks = draw_tasks(torch_generator(seed, "tested", place), budget.tasks, DIVERSITY_SIZE, source)
                mean, best = network(tasks.X, tasks.y, tasks.Q)[0], ridge(tasks)[0]
                row[place] = {"error": squared(mean, tasks.signal), "ridge_error": squared(best, tasks.signal),
                              "to_ridge": squared(mean, best)}  # fmt: skip
                if pool is not None:
                    discrete = discrete_mmse(tasks, pool)
                    row[place] |= {"dmmse_error": squared(discrete, tasks.signal), "to_dmmse": squared(mean, discrete)}
        rows.append(row)
        print(f"  M = {count or 'without end'}, {steps} steps: trained and tested", flush=True)
    return rows


def turning_point(rows: list[dict[str, Any]]) -> float | None:
    """The M at which predictions for new tasks are as far from ridge's as from dMMSE's; None where they never are."""
    counts = [row["M"] for row in rows if row["M"]]
    ratios = [np.log(row["new"]["to_ridge"]["mean"] / row["new"]["to_dmmse"]["mean"]) for row in rows if row["M"]]
    for k in range(1, len(ratios)):
        if ratios[k - 1] > 0 >= ratios[k]:
            share = ratios[k - 1] / (ratios[k - 1] - ratios[k])
            return float(counts[k - 1] * (counts[k] / counts[k - 1]) ** share)
    return None


def print_tables(results: dict[str, Any]) -> None:
    """As documents have them."""
    methods = ("transformer", "ridge", "least squares", "zero")
    _table("Squared error of w.x", ["n", *methods, "transformer's excess"], [
        [str(n), *(_said(found[m]["error"]) for m in methods), _said(found["transformer"]["excess"], 4)]
        for n in SIZES
        for found in [{row["method"]: row for row in results["errors"] if row["n"] == n}]
    ])  # fmt: skip
    _table("Excess after every layer; steps of gradient descent that get as far", ["n", "layer", "excess", "steps"], [
        [str(part["n"]), str(layer), _said(excess, 4), _said(worth, 1)]
        for part in results["layers"]
        for layer, (excess, worth) in enumerate(zip(part["layers"], part["worth"], strict=True))
    ])  # fmt: skip
    measures = ("std", "exact_std", "ratio", "nll", "exact_nll", "nll_excess", "coverage_95")
    _table("Standard deviation and negative log likelihood (nats)", ["n", *measures, "r of log std"], [
        [str(row["n"]), *(_said(row[measure], 4) for measure in measures), f"{row['log_std_r']:.3f}"]
        for row in results["uncertainty"]
    ])  # fmt: skip
    columns = ("error", "ridge_error", "dmmse_error", "to_ridge", "to_dmmse")
    for part in results["diversity"]:
        _table(f"Tasks in training (M), {part['steps']} steps", ["M", "tested on", *columns], [
            [str(row["M"] or "without end"), place, *(_said(row[place][c]) if c in row[place] else "" for c in columns)]
            for row in part["rows"]
            for place in ("new", "training")
        ])  # fmt: skip
        print(f"\nOn new tasks as far from ridge as from dMMSE: M = {part['turning_point']}")


def _table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    print(f"\n{title}\n\n| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def _said(value: dict[str, float], digits: int = 3) -> str:
    return f"{value['mean']:.{digits}f} ± {value['se']:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps and tasks, to see that all runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="OUT.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    budget, start = QUICK if args.quick else Budget(), time.monotonic()
    network = train(budget.steps, derive_seed(args.seed, "network")).eval()
    print(f"{sum(p.numel() for p in network.parameters())} parameters, trained in {time.monotonic() - start:.0f} s")
    with torch.no_grad():
        results: dict[str, Any] = {
            "errors": measure_errors(network, budget, args.seed),
            "layers": measure_layers(network, budget, args.seed),
            "uncertainty": measure_uncertainty(network, budget, args.seed),
        }
    results["diversity"] = []
    for steps in budget.diversity_steps:
        rows = measure_diversity(budget, steps, args.seed)
        results["diversity"].append({"steps": steps, "rows": rows, "turning_point": turning_point(rows)})
    print_tables(results)
    seconds = round(time.monotonic() - start)
    print(f"{seconds} s")
    if args.json:
        settings = {"features": FEATURES, "noise": NOISE, "longest": LONGEST, "width": WIDTH, "layers": LAYERS}
        about = {"commit": commit(), "command": "python " + " ".join(sys.argv), "seconds": seconds}
        write_json(args.json, about | {"settings": settings | budget._asdict()} | results)


if __name__ == "__main__":
    main()
