"""A model is bound to the image encoder that its training subjects' embeddings came from."""

import json
from dataclasses import replace

import numpy as np
import pytest
from standin import small_network
from synthetic import make_responses

import braincl
from braincl.analysis.predict import predict_responses
from braincl.cli.main import main
from braincl.estimators.in_context import InContextEncoder
from braincl.models.config import SharedContextConfig
from braincl.models.model_folder import EMBEDDED, ModelCard, save_encoder
from braincl.training.config import TrainConfig
from braincl.training.train import meta_train
from setcore.checkpoint import CONFIG_FILE
from setcore.training import Budget

TINY = TrainConfig(network=SharedContextConfig(width=8, heads=2, hidden=8, layers=1), voxels=8)


def subjects(*backbones):
    made = [make_responses(60, 9, seed=seed) for seed in range(len(backbones))]
    return [d.assign_attrs(backbone=name) if name else d.drop_attrs() for d, name in zip(made, backbones, strict=True)]


def train(datasets, folder, config=TINY):
    meta_train(datasets, config, out=folder, budget=Budget(steps=1), progress=False)
    return InContextEncoder.from_pretrained(folder)


def test_training_records_the_backbone_and_prediction_refuses_another(tmp_path):
    model = train(subjects("clip", ""), tmp_path / "model")  # one set that states nothing goes with the other
    assert model.backbone == json.loads((tmp_path / "model" / CONFIG_FILE).read_text())["backbone"] == "clip"

    dataset = make_responses(60, 9, seed=5).assign_attrs(backbone="clip")
    context, query = dataset.isel(image=slice(0, 30)), dataset[["embedding"]].isel(image=slice(30, None))
    model.fit(context["embedding"].values, context["response"].values)
    expected, _ = model.predict(query["embedding"].values, return_std=True)
    for stated in ("clip", ""):
        predicted = predict_responses(model, context, query.assign_attrs(backbone=stated))
        np.testing.assert_allclose(predicted["prediction"], expected, rtol=1e-6)

    silent, other = context.drop_attrs(), context.assign_attrs(backbone="dino")
    with pytest.raises(braincl.ModelError, match=r"the context's embedding has backbone 'dino', .* trained on 'clip'"):
        predict_responses(model, other, query.drop_attrs())
    with pytest.raises(braincl.ModelError, match="the query's embedding has backbone 'dino'"):
        predict_responses(model, silent, query.assign_attrs(backbone="dino"))
    with pytest.raises(braincl.ModelError, match="the subject's embedding has backbone 'dino'"):
        braincl.evaluate(model, dataset.assign_attrs(backbone="dino"), contexts=(10,), draws=1)


def test_another_name_of_the_encoder_can_be_taken(tmp_path):
    train(subjects("clip"), tmp_path / "model")
    dataset = make_responses(60, 9, seed=5).assign_attrs(backbone="ViT-B-32")
    braincl.save_responses(dataset.isel(image=slice(0, 30)), tmp_path / "context.nc")
    braincl.save_responses(dataset.isel(image=slice(30, None)), tmp_path / "query.nc")
    out = tmp_path / "out.nc"
    argv = ["predict", "--model", str(tmp_path / "model"), "--context", str(tmp_path / "context.nc"), "--images",
            str(tmp_path / "query.nc"), "--out", str(out)]  # fmt: skip
    assert main(argv) == 2
    assert main([*argv, "--any-backbone"]) == 0
    assert out.exists()


def test_commands_refuse_before_anything_is_written(tmp_path, capsys):
    train(subjects("clip"), tmp_path / "model")
    braincl.save_responses(subjects("dino")[0], tmp_path / "subject.nc")
    subject, model = str(tmp_path / "subject.nc"), ["--model", str(tmp_path / "model")]
    before = sorted(tmp_path.iterdir())
    argv = ["predict", "--context", subject, "--images", subject, "--out", str(tmp_path / "p.nc"), *model]
    assert main(argv) == 2
    assert main(["evaluate", subject, "--contexts", "10", "--json", str(tmp_path / "o.json"), *model]) == 2
    assert capsys.readouterr().err.count("was trained on 'clip'") == 2
    assert sorted(tmp_path.iterdir()) == before


def test_agnostic_and_unrecorded_models_take_any(tmp_path):
    agnostic = train(subjects("clip"), tmp_path / "agnostic", replace(TINY, agnostic=True))
    save_encoder(tmp_path, small_network(), ModelCard())
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    del config["backbone"]  # a folder of the time before it was recorded
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config))
    dataset = make_responses().assign_attrs(backbone="dino")
    for model in (agnostic, InContextEncoder.from_pretrained(tmp_path), InContextEncoder()):
        assert model.backbone == ""
        predict_responses(model, dataset.isel(image=slice(0, 20)), dataset[["embedding"]])


@pytest.mark.parametrize("name", sorted(path.name for path in EMBEDDED.iterdir() if path.is_dir()))
def test_embedded_models_load(name):
    assert isinstance(InContextEncoder.from_pretrained(name).backbone, str)
