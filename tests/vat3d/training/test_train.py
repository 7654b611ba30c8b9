import dataclasses
import json
import multiprocessing
from pathlib import Path

import pytest
import torch
from toy_shapes import COMPONENTS, TRAIN, Killed, Toy, generators

from setcore.checkpoint import load_tensors
from setcore.errors import CheckpointError, InputError
from setcore.training import LOG_FILE, STATE_FILE, Budget
from vat3d.bitstream.token_model import TABLES_FILE
from vat3d.pretrained import load_pretrained
from vat3d.training.train import learning_rate, losses, new_network, train

CONFIG = dataclasses.replace(TRAIN, quantise_from=0.3)


def run(out: Path, steps: int, *, resume: bool = False, seed: int = 0) -> dict:
    return train(
        [Toy(), Toy(24)], out, COMPONENTS, CONFIG, Budget(steps=steps), seed=seed, resume=resume, progress=False
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    run(out, 12)
    return out


def test_killed_and_resumed_equals_uninterrupted(finished: Path, tmp_path: Path) -> None:
    """Killed after the checkpoint of step 5, in the middle of the curriculum; the same weights, tables and id."""
    validation_draws, shapes = 1, CONFIG.basis_shapes + 8 * CONFIG.batch
    dying = Killed(validation_draws + shapes // 2)  # half of them come from the other data set
    with pytest.raises(KeyboardInterrupt):
        train([dying, Toy(24)], tmp_path, COMPONENTS, CONFIG, Budget(steps=12), progress=False)
    assert (tmp_path / STATE_FILE).exists()
    assert not (tmp_path / "model.safetensors").exists()
    run(tmp_path, 12, resume=True)
    for name in (STATE_FILE, "model.safetensors", TABLES_FILE):
        one, other = load_tensors(finished / name), load_tensors(tmp_path / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name


def test_a_finished_folder_is_not_overwritten(finished: Path) -> None:
    with pytest.raises(InputError, match="--resume"):
        run(finished, 12)


def test_release_loads_and_knows_its_id(finished: Path) -> None:
    network, model, facts = load_pretrained(finished)
    assert network.config == COMPONENTS
    assert model.scales == COMPONENTS.scales
    assert len(facts["perplexity"]) == len(COMPONENTS.scales)
    assert all(1 <= used <= COMPONENTS.codes for used in facts["codes_in_use"])
    assert not any(p.requires_grad for p in network.parameters())


def test_altered_weights_are_noticed(finished: Path, tmp_path: Path) -> None:
    from setcore.checkpoint import save_tensors

    for name in ("config.json", TABLES_FILE):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    tensors = load_tensors(finished / "model.safetensors")
    tensors["field.out.bias"] = tensors["field.out.bias"] + 1
    save_tensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(CheckpointError, match="not of one model"):
        load_pretrained(tmp_path)


def test_the_log_is_json_lines_with_validation(finished: Path) -> None:
    lines = [json.loads(line) for line in (finished / LOG_FILE).read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 12]
    assert "iou@full" in lines[0]
    last = lines[-1]
    assert len(last["perplexity"]) == len(last["in_use"]) == len(COMPONENTS.scales)
    assert any(name.startswith("f@") for name in last)


def test_training_learns(tmp_path: Path) -> None:
    """Loss on fixed batches falls by half within a hundred steps."""
    from setcore.seeding import torch_generator
    from vat3d.training.augment import make_batch
    from vat3d.training.batches import TrainingBatch

    network = new_network(COMPONENTS, 0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    batch = make_batch(Toy().batch(range(4)), CONFIG, generators(4), augment=False)
    values = []
    for step in range(80):
        noise = torch.randn(
            4, 3, COMPONENTS.grid, COMPONENTS.grid, COMPONENTS.channels, generator=torch_generator(step)
        )
        drawn = TrainingBatch(batch, noise, torch.ones(4, dtype=torch.long), torch.zeros(4))
        loss, parts, _, _ = losses(network, drawn, CONFIG, 1.0, None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(parts["volume"]))
    assert values[-1] < 0.5 * values[0]


def test_learning_rate_rises_holds_and_falls() -> None:
    config = dataclasses.replace(TRAIN, learning_rate=1.0, warmup=10, cooldown=0.5)
    assert learning_rate(0, 0.0, config) == pytest.approx(0.1)
    assert learning_rate(10, 0.2, config) == learning_rate(50, 0.5, config) == 1.0
    assert learning_rate(100, 1.0, config) == pytest.approx(0.01)


def _hold(folder: str, ready, done) -> None:
    from setcore.files import locked_folder

    with locked_folder(folder):
        ready.set()
        done.wait(30)


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(tmp_path), ready, done))
    other.start()
    try:
        assert ready.wait(60)
        with pytest.raises(InputError, match="another process"):
            run(tmp_path, 2)
    finally:
        done.set()
        other.join()


def test_no_training_meshes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no training meshes"):
        train([Toy(8)], tmp_path, COMPONENTS, CONFIG, Budget(steps=2), progress=False)
