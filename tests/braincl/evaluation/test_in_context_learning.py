"""The rivals of `benchmarks/braincl/in_context_learning.py` by routes of their own; what its network cannot know."""

from __future__ import annotations

import in_context_learning as icl
import numpy as np
import pytest
import torch

from setcore.seeding import torch_generator

TASKS, N, QUERIES = 5, 11, 3


@pytest.fixture(scope="module")
def tasks() -> icl.Tasks:
    return icl.draw_tasks(torch_generator(0, "tests"), TASKS, N, queries=QUERIES)


@pytest.fixture(scope="module")
def network() -> icl.InContextRegressor:
    return icl.train(2, seed=3).eval()


def predictions(network: icl.InContextRegressor, tasks: icl.Tasks) -> np.ndarray:
    with torch.no_grad():
        return torch.stack(network(tasks.X, tasks.y, tasks.Q)).numpy()


def test_ridge_is_a_gaussian_process(tasks):
    mean, variance = icl.ridge(tasks)
    for t in range(TASKS):
        X, y, Q = (part[t].double().numpy() for part in (tasks.X, tasks.y, tasks.Q))
        kernel = X @ X.T / icl.FEATURES + icl.NOISE**2 * np.eye(N)
        across = Q @ X.T / icl.FEATURES
        np.testing.assert_allclose(mean[t], across @ np.linalg.solve(kernel, y), atol=1e-5)
        explained = np.einsum("qn,qn->q", across, np.linalg.solve(kernel, across.T).T)
        np.testing.assert_allclose(variance[t], (Q**2).sum(1) / icl.FEATURES - explained + icl.NOISE**2, atol=1e-5)


def test_ridge_expects_the_errors_that_it_makes():
    many = icl.draw_tasks(torch_generator(1, "tests"), 4000, N, queries=1)
    mean, variance = icl.ridge(many)
    z = ((many.target - mean) / variance.sqrt()).numpy()
    assert abs(z.mean()) < 4 / 4000**0.5
    assert abs((z**2).mean() - 1) < 4 * (2 / 4000) ** 0.5


@pytest.mark.parametrize("n", [3, 20])
def test_least_squares_has_the_least_norm(n):
    few = icl.draw_tasks(torch_generator(2, "tests"), TASKS, n, queries=QUERIES)
    for t, found in enumerate(icl.least_squares(few)):
        weights = np.linalg.lstsq(few.X[t].double().numpy(), few.y[t].double().numpy(), rcond=None)[0]
        np.testing.assert_allclose(found, few.Q[t].numpy() @ weights, atol=1e-4)


def test_gradient_descent_goes_to_ridge(tasks):
    path = icl.gradient_descent(tasks, 0.2, 400)
    assert path.shape == (400, TASKS, QUERIES)
    far = [float((path[k] - icl.ridge(tasks)[0]).square().mean()) for k in (0, 9, 99)]
    assert far == sorted(far, reverse=True)
    torch.testing.assert_close(path[-1], icl.ridge(tasks)[0], atol=1e-4, rtol=0)


def test_the_best_step_size_depends_on_the_number_of_steps(tasks):
    sizes = icl.best_step_sizes(tasks)
    assert len(sizes) == icl.DESCENT_STEPS
    for steps in (1, 5):
        errors = [
            float((icl.gradient_descent(tasks, s, steps)[-1] - tasks.signal).square().mean()) for s in icl.STEP_SIZES
        ]
        assert sizes[steps - 1] == icl.STEP_SIZES[int(np.argmin(errors))]


def test_dmmse_of_one_task_is_that_task(tasks):
    pool = icl.draw_weights(torch_generator(3, "tests"), 1)
    torch.testing.assert_close(icl.discrete_mmse(tasks, pool), tasks.Q @ pool[0])


def test_dmmse_of_many_tasks_is_ridge():
    """A pool that is dense in the prior: with little said by the context, its posterior mean is the prior's."""
    few = icl.draw_tasks(torch_generator(4, "tests"), TASKS, 1, queries=QUERIES)
    pool = icl.draw_weights(torch_generator(5, "tests"), 200_000)
    torch.testing.assert_close(icl.discrete_mmse(few, pool), icl.ridge(few)[0], atol=0.02, rtol=0)


def test_dmmse_finds_the_task_of_a_long_context():
    pool = icl.draw_weights(torch_generator(6, "tests"), 7)
    known = icl.draw_tasks(torch_generator(7, "tests"), TASKS, 400, pool, QUERIES)
    torch.testing.assert_close(icl.discrete_mmse(known, pool), known.signal, atol=1e-4, rtol=0)


def test_the_network_knows_no_order_and_sees_no_other_query(network, tasks):
    whole = predictions(network, tasks)
    assert whole.shape == (2, TASKS, QUERIES)
    turned = predictions(network, tasks._replace(X=tasks.X.flip(1), y=tasks.y.flip(1)))
    alone = predictions(network, tasks._replace(Q=tasks.Q[:, 1:2]))
    np.testing.assert_allclose(turned, whole, atol=1e-5)
    np.testing.assert_allclose(alone, whole[:, :, 1:2], atol=1e-5)
    other = predictions(network, tasks._replace(y=-tasks.y))
    assert np.abs(other - whole).max() > 1e-4


def test_training_is_seeded_and_leaves_the_global_state(network):
    before = torch.random.get_rng_state()
    again = icl.train(2, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    for (name, value), (_, other) in zip(network.state_dict().items(), again.state_dict().items(), strict=True):
        torch.testing.assert_close(value, other, msg=name)


def test_readouts_find_what_is_linear_in_a_token(network):
    """All tasks have the same weights, so that the query's embedding alone tells w.x, and so do the tokens after it."""
    same = icl.draw_tasks(torch_generator(8, "tests"), 40, N, icl.draw_weights(torch_generator(9, "tests"), 1))
    with torch.no_grad():
        readouts = icl.fit_readouts(network, same)
        tokens = network.query_tokens(same.X, same.y, same.Q)
    assert len(readouts) == len(tokens) == icl.LAYERS + 1
    read = [(icl.with_ones(token) @ readout)[..., 0] for token, readout in zip(tokens, readouts, strict=True)]
    torch.testing.assert_close(read[0], same.signal, atol=1e-3, rtol=0)
    assert all(float((values - same.signal).square().mean()) < 0.1 for values in read)


def test_steps_that_a_layer_is_worth():
    descent = np.array([1.0, 0.1, 0.01, 0.02])
    assert icl.steps_worth(0.1, descent) == pytest.approx(1)
    assert icl.steps_worth(0.1**1.5, descent) == pytest.approx(1.5)
    assert icl.steps_worth(2.0, descent) == 0
    assert icl.steps_worth(1e-5, descent) == 3


def test_turning_point_lies_between_the_two_sides():
    def row(count: int | None, to_ridge: float, to_dmmse: float) -> dict:
        return {"M": count, "new": {"to_ridge": {"mean": to_ridge}, "to_dmmse": {"mean": to_dmmse}}}

    rows = [row(1, 4.0, 1.0), row(4, 2.0, 1.0), row(64, 1.0, 2.0), row(None, 0.1, 1.0)]
    assert icl.turning_point(rows) == pytest.approx(16)
    assert icl.turning_point(rows[:2]) is None
