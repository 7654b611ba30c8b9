"""Meta-training: what it writes, that it resumes to the same weights after a kill, and what it refuses."""

import importlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import safetensors
import torch
import xarray as xr
from synthetic import make_responses

import setcore.training
from braincl.cli.main import main
from braincl.data import responses
from braincl.data.responses import save_responses
from braincl.errors import ModelError, ResponseError
from braincl.estimators.in_context import InContextEncoder
from braincl.models.config import SharedContextConfig
from braincl.models.shared_context import SharedContextNetwork
from braincl.simulation.shifted_subject import simulate_shifted_subject
from braincl.training import tasks
from braincl.training.config import PRESETS, Schedule, Stage, TrainConfig, stored_schedule
from braincl.training.describe import describe_model
from braincl.training.tasks import read_subjects
from braincl.training.train import meta_train
from setcore.checkpoint import WEIGHTS_FILE, config_from_dict, load_tensors
from setcore.errors import CheckpointError, InputError
from setcore.training import STATE_FILE, Budget

SCHEDULE = Schedule(Stage(0.4, 10, 10, 1.0), Stage(0.2, 4, 24, 1.0), Stage(0.4, 8, 20, 0.4))
TINY = TrainConfig(
    network=SharedContextConfig(width=8, heads=2, hidden=8, layers=1), schedule=SCHEDULE, queries=8, voxels=12,
    validation_contexts=(5, 11), report_every=2,
)  # fmt: skip


def subjects():
    return [
        make_responses(seed=seed, voxels=voxels).assign_attrs(subject=f"S{seed}") for seed, voxels in ((1, 9), (2, 8))
    ]


def test_each_response_set_is_validated_once(tmp_path, monkeypatch):
    files = [tmp_path / f"{number}.nc" for number in range(3)]
    for file, dataset in zip(files, [*subjects(), make_responses(seed=3)], strict=True):
        save_responses(dataset, file)
    opened, read = [], []
    original, load = responses.open_responses, xr.open_dataset
    monkeypatch.setattr(
        tasks, "open_responses", lambda source, **options: opened.append(source) or original(source, **options)
    )
    monkeypatch.setattr(xr, "open_dataset", lambda path, **options: read.append(path) or load(path, **options))
    assert main(["train", *map(str, files), "--out", str(tmp_path / "m"), "--steps", "1"]) == 0
    assert opened == [str(file) for file in files]
    assert read == files


def test_training_holds_the_arrays_that_it_was_given():
    given = subjects()
    (read,), backbone, _ = read_subjects(given, agnostic=False)
    assert backbone == given[0].attrs["backbone"]
    for subject, dataset in zip(read, given, strict=True):
        assert np.shares_memory(subject.X, dataset["embedding"].values)
        assert np.shares_memory(subject.Y, dataset["response"].values)


def test_only_an_agnostic_network_takes_embeddings_of_several_encoders():
    first, second = subjects()
    second = second.assign_attrs(backbone="another")
    with pytest.raises(ResponseError, match="one backbone"):
        read_subjects([first, second], agnostic=False)
    groups, backbone, _ = read_subjects([first, second, first], agnostic=True)
    assert [[subject.name for subject in group] for group in groups] == [["S1", "S1"], ["S2"]]
    assert backbone == ""


def final_state(folder):
    return load_tensors(folder / STATE_FILE)


def progress(folder):
    with safetensors.safe_open(folder / STATE_FILE, "pt") as file:
        return json.loads(file.metadata()["progress"])


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name].numpy(), right[name].numpy(), err_msg=name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training") / "model"
    meta_train(subjects(), TINY, folder, budget=Budget(steps=5), seed=3, progress=False)
    return folder


def test_the_model_folder_is_a_model(finished):
    encoder = InContextEncoder.from_pretrained(finished)
    assert encoder.training_subjects == ["S1", "S2"]
    new = make_responses(seed=5)
    X, Y = new["embedding"].values, new["response"].values
    mean, std = encoder.fit(X[:10], Y[:10]).predict(X[10:], return_std=True)
    assert np.isfinite(mean).all()
    assert (std > 0).all()
    assert encoder.population_prior().prior.n_features == 12
    training = json.loads((finished / "config.json").read_text())["training"]
    assert training["seed"] == 3
    assert training["population"]["left_out_r"]


def test_same_seed_same_weights_another_seed_others(finished, tmp_path):
    meta_train(subjects(), TINY, tmp_path / "again", budget=Budget(steps=5), seed=3, progress=False)
    assert_same(final_state(finished), final_state(tmp_path / "again"))
    meta_train(subjects(), TINY, tmp_path / "other", budget=Budget(steps=5), seed=4, progress=False)
    name = "model.read_out.weight"
    assert not np.array_equal(final_state(finished)[name], final_state(tmp_path / "other")[name])


def test_training_starts_from_a_model_and_keeps_the_closed_form_a_candidate(finished, tmp_path):
    """With a learning rate of zero what was learned there stays; the new subjects' prior is their own."""
    config = replace(TINY, start=str(finished), learning_rate=0.0)
    meta_train(subjects(), config, tmp_path / "model", budget=Budget(steps=3), seed=8, progress=False)
    start, state = load_tensors(finished / WEIGHTS_FILE), final_state(tmp_path / "model")
    learned = [name for name, _ in SharedContextNetwork(TINY.network).named_parameters()]
    assert_same({name: start[name].float() for name in learned}, {name: state[f"model.{name}"] for name in learned})
    meta_train(subjects(), TINY, tmp_path / "untrained", budget=Budget(steps=1), seed=8, progress=False)
    first, second, *_ = progress(tmp_path / "model")["history"]
    assert first == progress(tmp_path / "untrained")["history"][0]
    assert second["validation_loss"] != first["validation_loss"]


def test_a_start_of_other_sizes_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="agnostic: its network has other sizes"):
        meta_train(subjects(), replace(TINY, start="agnostic"), tmp_path / "model", budget=Budget(steps=1))
    with pytest.raises(ModelError, match="neither a model folder nor an embedded model"):
        meta_train(subjects(), replace(TINY, start="nobody"), tmp_path / "model", budget=Budget(steps=1))
    assert not (tmp_path / "model").exists()


def test_the_default_preset_starts_from_the_embedded_agnostic_weights():
    shapes = {name: values.shape for name, values in InContextEncoder.from_pretrained().network.named_parameters()}
    assert PRESETS["small"].start == "agnostic"
    assert shapes == {name: v.shape for name, v in SharedContextNetwork(PRESETS["small"].network).named_parameters()}


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from braincl.training.train import meta_train
from setcore.training import Budget
import torch
torch.set_num_threads(1)
sys.path.insert(0, {here!r})
import test_train
budget = Budget(steps=5)
meta_train(test_train.subjects(), test_train.TINY, {out!r}, budget=budget, seed=3, resume={resume}, progress=False)
"""


def run_child(out, resume, kill_after=None):
    here = os.path.dirname(__file__)
    script = SCRIPT.format(tests=os.path.dirname(os.path.dirname(here)), here=here, out=str(out), resume=resume)
    child = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE)
    if kill_after is not None:
        deadline = time.monotonic() + 120
        while not (out / STATE_FILE).exists() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(kill_after)
        child.send_signal(signal.SIGKILL)
    _, errors = child.communicate(timeout=300)
    return child.returncode, errors.decode()


def test_killed_and_resumed_equals_uninterrupted(finished, tmp_path):
    out = tmp_path / "killed"
    run_child(out, resume=False, kill_after=random.uniform(0, 0.5))
    code, errors = run_child(out, resume=True)
    assert code == 0, errors
    assert_same(final_state(finished), final_state(out))
    assert_same(load_tensors(finished / WEIGHTS_FILE), load_tensors(out / WEIGHTS_FILE))


@pytest.mark.parametrize(
    ("saves", "at", "stage"), [(1, 0, "synthetic"), (2, 2, "synthetic"), (3, 3, "extension"), (4, 4, "real")]
)
def test_every_stage_resumes(finished, tmp_path, monkeypatch, saves, at, stage):
    """The run dies right after a checkpoint of that stage, in its middle or at its end."""
    real, count = setcore.training.save_training_state, itertools.count(1)

    def save_then_die(*args, **kwargs):
        real(*args, **kwargs)
        if next(count) == saves:
            raise KeyboardInterrupt

    out = tmp_path / "killed"
    monkeypatch.setattr(setcore.training, "save_training_state", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        meta_train(subjects(), TINY, out, budget=Budget(steps=5), seed=3, progress=False)
    assert progress(out)["history"][-1].items() >= {"step": at, "stage": stage}.items()
    monkeypatch.setattr(setcore.training, "save_training_state", real)
    meta_train(subjects(), TINY, out, budget=Budget(steps=5), seed=3, resume=True, progress=False)
    assert_same(final_state(finished), final_state(out))
    assert_same(load_tensors(finished / WEIGHTS_FILE), load_tensors(out / WEIGHTS_FILE))
    assert progress(out)["history"] == progress(finished)["history"]
    assert json.loads((out / "config.json").read_text()) == json.loads((finished / "config.json").read_text())


def test_the_budget_is_divided_by_the_shares(finished):
    ends = {row["stage"]: row["step"] for row in progress(finished)["history"]}
    assert ends == {"synthetic": 2, "extension": 3, "real": 5}  # .4, .2 and .4 of 5 steps


def test_the_stages_show_what_they_say(monkeypatch, tmp_path):
    """Context sizes of each step, and whether its voxels are simulated."""
    training = importlib.import_module("braincl.training.train")
    shown, stages = [], []
    loss, step = training._Trainer._loss, training._Trainer._gradient

    def noted_loss(self, X, Y, queries, targets):
        if torch.is_grad_enabled():
            shown.append((len(X), Y.shape[1] == TINY.voxels))
        return loss(self, X, Y, queries, targets)

    def noted_step(self, number, stage):
        stages.append(stage)
        return step(self, number, stage)

    monkeypatch.setattr(training._Trainer, "_loss", noted_loss)
    monkeypatch.setattr(training._Trainer, "_gradient", noted_step)
    config = replace(TINY, report_every=1000)
    meta_train(subjects(), config, tmp_path / "m", budget=Budget(steps=60), seed=3, progress=False)
    assert [stages.count(stage) for stage in SCHEDULE.stages] == [24, 12, 24]
    sizes = {stage: [size for size, _ in itertools.compress(shown, [s is stage for s in stages])] for stage in stages}
    synthetic, extension, real = SCHEDULE.stages
    assert set(sizes[synthetic]) == {10}
    assert 4 <= min(sizes[extension]) < 8 < 20 < max(sizes[extension]) <= 24
    assert 8 <= min(sizes[real]) < max(sizes[real]) <= 20
    assert all(simulated for _, simulated in shown[:36])
    assert 0 < sum(simulated for _, simulated in shown[36:]) < 24


def test_another_schedule_cannot_resume(finished):
    other = replace(TINY, schedule=SCHEDULE.with_shares((0.2, 0.2, 0.6)))
    with pytest.raises(InputError, match=r"begun with another schedule.*40% of the budget.*resume it with its own"):
        meta_train(subjects(), other, finished, budget=Budget(steps=9), seed=3, resume=True, progress=False)
    other = replace(TINY, clip=2.0)
    with pytest.raises(InputError, match="begun with another configuration"):
        meta_train(subjects(), other, finished, budget=Budget(steps=9), seed=3, resume=True, progress=False)


def test_a_larger_budget_does_not_lead_back_to_an_earlier_stage(finished, tmp_path):
    out = tmp_path / "longer"
    shutil.copytree(finished, out)
    meta_train(subjects(), TINY, out, budget=Budget(steps=50), seed=3, resume=True, progress=False)
    assert {row["stage"] for row in progress(out)["history"] if row["step"] > 5} == {"real"}


def test_the_schedule_is_stored_with_the_weights(finished):
    training = json.loads((finished / "config.json").read_text())["training"]
    assert stored_schedule(training, "here") == SCHEDULE
    found = describe_model(finished)
    assert config_from_dict(Schedule, json.loads(json.dumps(found["schedule"])), "here") == SCHEDULE
    assert found["training_subjects"] == ["S1", "S2"]
    assert found["features"] == 12
    assert found["best_stage"] in SCHEDULE.names
    damaged = {"train_config": {"schedule": {"synthetic": {"share": 2}}}}
    with pytest.raises(CheckpointError, match="schedule"):
        stored_schedule(damaged, "here")


def test_a_schedule_is_checked():
    with pytest.raises(InputError, match="must sum to 1"):
        SCHEDULE.with_shares((0.5, 0.5, 0.5))
    with pytest.raises(InputError, match="both must lie in"):
        Stage(-0.1, 8, 10, 0.5)
    with pytest.raises(InputError, match="2 <= min <= max"):
        Stage(0.1, 11, 10, 0.5)
    left_out = SCHEDULE.with_shares((0.0, 0.25, 0.75))
    assert [left_out.at(used) for used in (0, 0.2, 0.25, 1)] == [1, 1, 2, 2]
    assert SCHEDULE.with_shares((1.0, 0.0, 0.0)).at(1) == 0


def test_more_steps_go_on_from_the_checkpoint_by_minutes_too(finished, tmp_path):
    out = tmp_path / "timed"
    meta_train(subjects(), TINY, out, budget=Budget(minutes=0.02), seed=3, progress=False)
    before = json.loads((out / "config.json").read_text())
    start = time.monotonic()
    meta_train(subjects(), TINY, out, budget=Budget(minutes=0.02), seed=3, resume=True, progress=False)
    assert time.monotonic() - start < 60  # the minutes are used up: nothing is left to do
    assert json.loads((out / "config.json").read_text()) == before


def test_killed_by_minutes_and_resumed_completes_in_the_time_that_was_left(tmp_path, monkeypatch):
    """On a clock that goes half a second forward at each look: the budget of both runs together is 30 s."""
    looks, budget, out = itertools.count(), Budget(minutes=0.5), tmp_path / "timed"
    monkeypatch.setattr("setcore.training.time.perf_counter", lambda: next(looks) / 2)
    save = "setcore.training.save_training_state"
    real, saved = setcore.training.save_training_state, []

    def save_then_die(*args, **kwargs):
        real(*args, **kwargs)
        saved.append(args)
        if len(saved) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(save, save_then_die)
    with pytest.raises(KeyboardInterrupt):
        meta_train(subjects(), TINY, out, budget=budget, seed=3, progress=False)
    used = progress(out)["seconds"]
    assert 0 < used < 30
    monkeypatch.setattr(save, real)
    next(itertools.islice(looks, 1000, None))  # time passes between the runs, and does not count
    before = next(looks) / 2
    meta_train(subjects(), TINY, out, budget=budget, seed=3, resume=True, progress=False)
    total = progress(out)["seconds"]
    assert 30 <= total <= 32  # at most four looks after the last one at a budget that is not used up
    assert next(looks) / 2 - before <= 30 - used + 4


def test_a_model_is_never_trained_over(finished):
    before = (finished / WEIGHTS_FILE).read_bytes()
    with pytest.raises(InputError, match="already holds a run; add --resume"):
        meta_train(subjects(), TINY, finished, budget=Budget(steps=5), seed=3, progress=False)
    assert (finished / WEIGHTS_FILE).read_bytes() == before


def test_other_data_or_another_seed_cannot_resume(finished, tmp_path):
    changed = subjects()
    changed[1] = changed[1].copy(deep=True)
    changed[1]["embedding"][3, 2] += 1
    for given, seed, message in [
        (subjects()[:1], 3, "other data"),
        (changed, 3, "other data"),
        (subjects(), 4, "seed"),
    ]:
        with pytest.raises(InputError, match=message):
            meta_train(given, TINY, finished, budget=Budget(steps=9), seed=seed, resume=True, progress=False)
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", WEIGHTS_FILE):
        shutil.copy(finished / name, bare / name)
    for resume in (False, True):
        with pytest.raises(InputError, match="without the state of its training"):
            meta_train(subjects(), TINY, bare, budget=Budget(steps=9), seed=3, resume=resume, progress=False)


def test_subjects_that_do_not_go_together(tmp_path):
    with pytest.raises(ResponseError, match=r"embeddings of \[11, 12\] features"):
        meta_train([subjects()[0], make_responses(features=11)], TINY, tmp_path / "m", progress=False)
    with pytest.raises(ResponseError, match="12 pictures; training needs at least 20"):
        meta_train([make_responses(images=12)], TINY, tmp_path / "m", progress=False)
    with pytest.raises(ResponseError, match="at least one"):
        meta_train([], TINY, tmp_path / "m", progress=False)
    assert not (tmp_path / "m").exists()


def test_one_session_of_one_subject_is_enough(tmp_path):
    path = tmp_path / "one.nc"
    save_responses(make_responses(voxels=9), path)
    network = meta_train([path], TINY, tmp_path / "m", budget=Budget(steps=1), progress=False)
    assert network.config.features == 12


@pytest.mark.parametrize(("names", "share"), [(("S1", "S2"), 0.5), (("S1", "S1"), 0.0)])
def test_several_subjects_leave_a_share_to_population_prior_ridge(tmp_path, names, share):
    sets = [given.assign_attrs(subject=name) for given, name in zip(subjects(), names, strict=True)]
    network = replace(TINY.network, scales=(1.0, 0.5), leave_one_out=True)
    found = meta_train(sets, replace(TINY, network=network), tmp_path / "m", budget=Budget(steps=1), progress=False)
    assert found.config.prior_ridge_share == share


def test_an_agnostic_model_takes_any_width(tmp_path):
    config = replace(TINY, agnostic=True)
    meta_train(subjects(), config, tmp_path / "m", budget=Budget(steps=2), progress=False)
    encoder = InContextEncoder.from_pretrained(tmp_path / "m")
    assert encoder.population_prior() is None
    assert "agnostic" in encoder.prior_reason
    wide = make_responses(features=31)
    assert encoder.fit(wide["embedding"].values, wide["response"].values).coef_.shape == (7, 31)


def test_an_agnostic_model_learns_from_several_image_encoders(tmp_path):
    """Each encoder's subjects have a population prior of their own, which makes their simulated voxels."""
    other = make_responses(features=31, seed=9).assign_attrs(subject="S9", backbone="another")
    config, out = replace(TINY, agnostic=True), tmp_path / "m"
    budget = Budget(steps=5)
    meta_train([*subjects(), other], config, out, budget=budget, seed=3, progress=False)
    training = json.loads((out / "config.json").read_text())["training"]
    assert len(training["population"]) == 2
    assert InContextEncoder.from_pretrained(out).training_subjects == ["S1", "S2", "S9"]
    before = final_state(out)
    meta_train([*subjects(), other], config, out, budget=budget, seed=3, resume=True, progress=False)
    assert_same(before, final_state(out))
    with pytest.raises(ResponseError, match="one backbone"):
        meta_train([*subjects(), other], TINY, tmp_path / "bound", budget=budget, progress=False)


def test_shifted_subjects_have_responses_of_unit_variance_on_average():
    from standin import make_prior

    rng = np.random.default_rng(0)
    Y = simulate_shifted_subject(make_prior(), rng.standard_normal((300, 12)), 200, rng)
    assert Y.shape == (300, 200)
    assert Y.var(axis=0).mean() == pytest.approx(1, abs=0.15)
