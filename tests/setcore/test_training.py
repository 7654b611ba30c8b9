"""Budgets, schedules, averages, and training states that resume to the same weights."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from setcore.checkpoint import WEIGHTS_FILE, save_tensors
from setcore.errors import CheckpointError, InputError
from setcore.seeding import torch_generator
from setcore.training import (
    LOG_FILE,
    STATE_FILE,
    Budget,
    MovingAverage,
    Stopwatch,
    TrainingLoop,
    load_training_state,
    save_training_state,
    training_folder,
    warmup_cosine,
)

STEPS = 12


class Run:
    """A toy training run: every parameter group, schedule and random input that a real one has."""

    def __init__(self, width: int = 4) -> None:
        def linear(i: int, o: int) -> nn.Linear:
            layer = nn.Linear(i, o)
            with torch.no_grad():
                for index, p in enumerate(layer.parameters()):
                    p.copy_(torch.randn(p.shape, generator=torch_generator(0, i, o, index)))
            return layer

        self.model = nn.Sequential(linear(3, width), nn.BatchNorm1d(width), linear(width, 2))
        parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(
            [{"params": parameters[:2]}, {"params": parameters[2:], "weight_decay": 0.0}], lr=0.05
        )
        self.average = MovingAverage(self.model, decay=0.9)

    def train(self, start: int, stop: int) -> Run:
        for step in range(start, stop):
            for group in self.optimizer.param_groups:
                group["lr"] = 0.05 * warmup_cosine(Budget(steps=STEPS).fraction(step, 0.0))
            x = torch.randn(8, 3, generator=torch_generator(1, "step", step))
            loss = (self.model(x) - x[:, :2].sin()).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.average.update(step + 1)
        return self

    def assert_equal(self, other: Run) -> None:
        for mine, theirs in (
            (self.model.state_dict(), other.model.state_dict()),
            (self.average.state, other.average.state),
        ):
            assert mine.keys() == theirs.keys()
            for name in mine:
                assert torch.equal(mine[name], theirs[name]), name


@pytest.mark.parametrize("stop", [0, 1, 7])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, stop):
    whole = Run().train(0, STEPS)
    first = Run().train(0, stop)
    save_training_state(tmp_path, first.model, first.optimizer, {"step": stop, "seconds": 1.5}, first.average)
    second = Run()
    for p in second.model.parameters():
        nn.init.zeros_(p)
    progress = load_training_state(tmp_path, second.model, second.optimizer, second.average)
    assert progress == {"step": stop, "seconds": 1.5}
    whole.assert_equal(second.train(stop, STEPS))


KILLED = """
import sys
sys.path.insert(0, sys.argv[2])
import torch
torch.set_num_threads(1)  # as conftest does
from test_training import Run, STEPS
from setcore.training import save_training_state
run = Run()
print("started", flush=True)
for step in range(STEPS):
    run.train(step, step + 1)
    for _ in range(20):
        save_training_state(sys.argv[1], run.model, run.optimizer, {"step": step + 1}, run.average)
"""


def test_a_killed_run_resumes_to_the_same_weights(tmp_path, request):
    """The child saves almost all the time, so SIGKILL most often meets it while saving: the state there is whole."""
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(request.path.parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "started\n"
        while not (tmp_path / STATE_FILE).exists() and child.poll() is None:
            time.sleep(0.002)
        time.sleep(0.05)
        child.send_signal(signal.SIGKILL)
    resumed = Run()
    step = load_training_state(tmp_path, resumed.model, resumed.optimizer, resumed.average)["step"]
    Run().train(0, STEPS).assert_equal(resumed.train(step, STEPS))


def test_foreign_training_states_are_named_and_change_nothing(tmp_path):
    run, fresh = Run().train(0, 2), Run()
    with pytest.raises(CheckpointError, match="does not exist"):
        load_training_state(tmp_path, fresh.model, fresh.optimizer)
    save_tensors(tmp_path / STATE_FILE, run.model.state_dict())
    with pytest.raises(CheckpointError, match="not a training state"):
        load_training_state(tmp_path, fresh.model, fresh.optimizer)
    save_tensors(tmp_path / STATE_FILE, {"model.w": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="how far the run has come"):
        load_training_state(tmp_path, fresh.model, fresh.optimizer)

    other = Run(width=5).train(0, 2)
    save_training_state(tmp_path, other.model, other.optimizer, {"step": 2}, other.average)
    with pytest.raises(CheckpointError, match=r"shape \(5, 3\), expected \(4, 3\)"):
        load_training_state(tmp_path, fresh.model, fresh.optimizer, fresh.average)
    save_training_state(tmp_path, run.model, run.optimizer, {"step": 2})
    with pytest.raises(CheckpointError, match="moving average: tensor"):
        load_training_state(tmp_path, fresh.model, fresh.optimizer, fresh.average)
    save_training_state(tmp_path, run.model, other.optimizer, {"step": 2}, run.average)
    with pytest.raises(CheckpointError, match="optimiser tensor"):
        load_training_state(tmp_path, fresh.model, fresh.optimizer, fresh.average)
    fresh.assert_equal(Run())

    save_training_state(tmp_path, run.model, run.optimizer, {"step": 2}, run.average)
    state = (tmp_path / STATE_FILE).read_bytes()
    (tmp_path / STATE_FILE).write_bytes(state[: len(state) // 2])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_training_state(tmp_path, fresh.model, fresh.optimizer)


def test_moving_average_equals_the_written_out_sum():
    model, decay = nn.BatchNorm1d(3), 0.8
    average = MovingAverage(model, decay)
    expected = model.weight.detach().clone()
    for step in range(1, 60):
        with torch.no_grad():
            model.weight.copy_(torch.randn(3, generator=torch_generator(2, step)))
            model.num_batches_tracked.fill_(step)
        average.update(step)
        d = min(decay, step / (step + 10))
        expected = d * expected + (1 - d) * model.weight.detach()
        torch.testing.assert_close(average.state["weight"], expected)
        assert average.state["num_batches_tracked"] == step
    with torch.no_grad():
        model.weight.zero_()
    assert average.state["weight"].abs().min() > 0  # a copy, not a view


def test_budget_counts_steps_or_minutes():
    assert [Budget(steps=8).fraction(step, 1e9) for step in (0, 2, 8, 9)] == [0, 0.25, 1, 1]
    assert [Budget(minutes=0.5).fraction(10**9, seconds) for seconds in (0, 7.5, 30, 31)] == [0, 0.25, 1, 1]
    for arguments in ({}, {"steps": 3, "minutes": 1.0}):
        with pytest.raises(InputError, match="either --steps or --minutes"):
            Budget(**arguments)
    for arguments in ({"steps": 0}, {"minutes": -1.0}, {"minutes": math.nan}, {"minutes": math.inf}):
        with pytest.raises(InputError, match="positive and finite"):
            Budget(**arguments)


def test_schedule_rises_linearly_and_falls_as_a_cosine():
    assert warmup_cosine(0.0) > 0  # the first step already moves
    assert warmup_cosine(0.025) == pytest.approx(0.5)
    assert warmup_cosine(0.05) == pytest.approx(1)
    assert warmup_cosine(0.525) == pytest.approx(0.01 + 0.99 / 2)
    assert warmup_cosine(1.0) == pytest.approx(0.01)
    falling = [warmup_cosine(0.05 + 0.95 * i / 50) for i in range(51)]
    assert falling == sorted(falling, reverse=True)


def test_stopwatch_goes_on_from_earlier_runs():
    watch = Stopwatch(100.0)
    first = watch.seconds
    assert first >= 100
    assert watch.seconds >= first


def test_a_training_loop_logs_saves_and_goes_on_where_it_was_killed(tmp_path):
    def begin() -> TrainingLoop:
        run = Run()
        return TrainingLoop(
            tmp_path, run.model, run.optimizer, run.average, Budget(steps=10), lambda: {"figure": 0.5},
            report_every=3, save_every=4, progress=False,
        )  # fmt: skip

    def take(loop: TrainingLoop, until: int) -> None:
        loop.state.setdefault("seen", [])
        for fraction in loop:
            assert fraction == loop.step / 10
            if loop.step == until:
                raise KeyboardInterrupt
            loop.state["seen"].append(loop.step)
            loop.line = {"loss": float(loop.step)}

    with pytest.raises(KeyboardInterrupt):
        take(begin(), until=6)
    resumed = begin()
    assert (resumed.step, resumed.state, resumed.line["loss"]) == (4, {"seen": [0, 1, 2, 3]}, 3.0)
    take(resumed, until=10)
    assert resumed.step == 10
    assert begin().state == {"seen": list(range(10))}
    lines = [json.loads(line) for line in (tmp_path / LOG_FILE).read_text().splitlines()]
    assert [(line["step"], line["loss"], line["figure"]) for line in lines] == [
        (3, 2.0, 0.5), (6, 5.0, 0.5), (9, 8.0, 0.5)
    ]  # fmt: skip


def test_a_folder_with_a_run_is_gone_on_with_only_if_asked(tmp_path):
    with training_folder(tmp_path / "new", resume=False) as folder:
        (folder / STATE_FILE).touch()
    with pytest.raises(InputError, match="--resume"), training_folder(tmp_path / "new", resume=False):
        pass
    with training_folder(tmp_path / "new", resume=True) as folder:
        assert folder == tmp_path / "new"


def test_a_folder_with_a_finished_model_is_never_trained_over(tmp_path):
    (tmp_path / WEIGHTS_FILE).touch()
    for resume in (False, True):
        with pytest.raises(InputError, match="without the state of its training"), training_folder(tmp_path, resume):
            pass
    (tmp_path / "prior").touch()
    with pytest.raises(InputError, match="--resume"), training_folder(tmp_path, False, "prior"):
        pass
    with training_folder(tmp_path, True, "prior"):
        pass


def loop_of(folder, run: Run, **options) -> TrainingLoop:
    return TrainingLoop(
        folder, run.model, run.optimizer, run.average, Budget(steps=10), dict, report_every=2, save_every=2,
        progress=False, **options,
    )  # fmt: skip


def test_a_run_is_resumed_with_its_own_settings_alone(tmp_path):
    settings = {"seed": 3, "batch": (4, 5), "data set": "ab"}
    for loop in (loop_of(tmp_path, Run(), settings=settings), loop_of(tmp_path, Run(), settings=settings)):
        for _ in loop:
            loop.line = {"loss": 0.0}
    for name, value in (("seed", 4), ("batch", (4, 6)), ("data set", "cd")):
        with pytest.raises(InputError, match=f"begun with another {name} .*resume it with its own"):
            loop_of(tmp_path, Run(), settings=settings | {name: value})
    assert loop_of(tmp_path, Run(), settings=settings).state == {}


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_stops_and_the_last_checkpoint_stays(tmp_path, what):
    run, kept = Run(), {}
    loop = loop_of(tmp_path, run)

    def train() -> None:
        for _ in loop:
            if loop.step == 4:
                kept["state"] = (tmp_path / STATE_FILE).read_bytes()
            bad = loop.step == 5
            loss = run.model(torch.ones(8, 3).cumsum(dim=0)).square().sum()
            (loss * (math.nan if bad and what == "gradient" else 1)).backward()
            loop.descend(0.01)
            loop.line = {"loss": math.inf if bad else float(loss.detach())}

    with pytest.raises(InputError, match=f"{what}.* at step 5; the checkpoint of step 4 is kept"):
        train()
    assert (tmp_path / STATE_FILE).read_bytes() == kept["state"]
    assert [json.loads(line)["step"] for line in (tmp_path / LOG_FILE).read_text().splitlines()] == [2, 4]


def test_figures_that_are_tensors_are_read_where_a_report_is_due_and_not_before(tmp_path):
    """And a loss that is not finite is found there, with the step at which it came."""
    run = Run()
    loop = TrainingLoop(
        tmp_path, run.model, run.optimizer, None, Budget(steps=9), dict, report_every=4, save_every=100, progress=False
    )

    def train() -> None:
        for _ in loop:
            assert isinstance(loop.line.get("parts", []), list) == (loop.step % 4 == 0)
            loss = torch.tensor(math.nan if loop.step == 5 else loop.step / 8)
            loop.line = {"loss": loss, "parts": torch.tensor([1.0, loop.step]), "samples": 3}

    with pytest.raises(InputError, match=r"not finite at step 5; there is no checkpoint yet"):
        train()
    (line,) = [json.loads(line) for line in (tmp_path / LOG_FILE).read_text().splitlines()]
    assert (line["step"], line["loss"], line["parts"], line["samples"]) == (4, 0.375, [1.0, 3.0], 3)
    assert not (tmp_path / STATE_FILE).exists()


def test_a_run_that_takes_no_step_says_so(tmp_path):
    run = Run()
    loop = TrainingLoop(tmp_path, run.model, run.optimizer, None, Budget(minutes=1e-9), dict, report_every=4,
                        save_every=4, progress=False)  # fmt: skip
    with pytest.raises(InputError, match="before the first step; allow more minutes"):
        list(loop)
    assert not (tmp_path / STATE_FILE).exists()


def test_a_log_without_a_checkpoint_begins_anew(tmp_path):
    (tmp_path / LOG_FILE).write_text('{"step": 0, "loss": 1}\n')
    loop_of(tmp_path, Run())
    assert (tmp_path / LOG_FILE).read_text() == ""


def test_the_average_may_be_that_of_a_part(tmp_path):
    run, other = Run(), Run()
    part = MovingAverage(run.model[0], decay=0.9)
    save_training_state(tmp_path, run.model, run.optimizer, {"step": 1}, part)
    load_training_state(tmp_path, other.model, other.optimizer, MovingAverage(other.model[0]))
    with pytest.raises(CheckpointError, match="moving average"):
        load_training_state(tmp_path, other.model, other.optimizer, MovingAverage(other.model))


def test_a_loop_without_an_average_reports_and_saves_where_that_is_due(tmp_path):
    def begin(**options) -> TrainingLoop:
        run = Run()
        return TrainingLoop(
            tmp_path, run.model, run.optimizer, None, Budget(steps=10), lambda: {}, report_every=100, save_every=100,
            progress=False, due=lambda used: used in (0.3, 1), **options,
        )  # fmt: skip

    loop = begin(seconds=5.0)
    assert (loop.resumed, loop.seconds >= 5) == (False, True)
    for _ in loop:
        loop.line = {"loss": 0.0}
        if loop.step == 6:
            break
    resumed = begin()
    assert (resumed.resumed, resumed.step, resumed.seconds >= 5) == (True, 3, True)
    for _ in resumed:
        resumed.line = {"loss": 0.0}
    lines = [json.loads(line)["step"] for line in (tmp_path / LOG_FILE).read_text().splitlines()]
    assert lines == [3, 10]


def test_a_step_down_clips_all_gradients_together_and_clears_them(tmp_path):
    run = Run()
    run.optimizer = torch.optim.SGD(
        [{"params": list(run.model[0].parameters())}, {"params": list(run.model[2].parameters())}], lr=1.0
    )
    loop = TrainingLoop(tmp_path, run.model, run.optimizer, None, Budget(steps=1), dict, report_every=1, save_every=1,
                        progress=False)  # fmt: skip
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    before = [p.detach().clone() for p in parameters]
    run.model(torch.ones(8, 3).cumsum(dim=0)).square().sum().backward()
    gradients = [p.grad.clone() for p in parameters]
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    assert norm > 0.5
    loop.descend(0.1, clip=0.5)
    for now, then, gradient in zip(parameters, before, gradients, strict=True):
        torch.testing.assert_close(now.detach(), then - 0.1 * 0.5 * gradient / norm)
        assert now.grad is None
