"""Text to voxels, for correctness: a CLIP architecture of open_clip at random weights."""

import json

import nibabel
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from standin import save_small_model
from synthetic import with_grid

import braincl
from braincl.analysis.text_query import _text_selectivity, embed_prompts, query_text, roi_summary
from braincl.cli.main import main
from braincl.embedding.backbones import BACKBONES, Backbone, load_text_encoder
from setcore.checkpoint import save_tensors
from setcore.errors import CheckpointError

FEATURES, IMAGES, VOXELS = 24, 30, 7
NAME = "query-tiny-clip"
TINY = {
    "embed_dim": FEATURES,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PROMPTS = ["a photo of a face", "a photo of a house"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("configs")
    (folder / f"{NAME}.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return open_clip.create_model(NAME).eval()


@pytest.fixture(scope="module")
def weights(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "clip.safetensors"
    save_tensors(path, model.state_dict())
    return path


@pytest.fixture(autouse=True)
def known(model, monkeypatch):
    backbone = Backbone("tiny-clip", "open_clip", NAME)
    monkeypatch.setitem(BACKBONES, "tiny-clip", backbone)
    return backbone


@pytest.fixture(scope="module")
def folder(model, weights, tmp_path_factory):
    """A context made from pictures, with embeddings and responses along known texts."""
    folder = tmp_path_factory.mktemp("query")
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    for number in range(IMAGES):
        Image.fromarray(rng.integers(0, 256, (40, 33, 3), dtype=np.uint8)).save(folder / "pictures" / f"{number}.png")
    made = braincl.embed_images(
        [folder / "pictures"], Backbone("tiny-clip", "open_clip", NAME), weights, device="cpu", out=folder / "f.nc"
    )
    Y = made["embedding"].values @ rng.standard_normal((FEATURES, VOXELS)) + 5
    Y[:, 3] = 2  # constant
    context = made.drop_vars("image_file").assign(response=(("image", "voxel"), Y.astype("f4")))
    context = context.assign_coords(
        voxel_id=("voxel", [f"v{v}" for v in range(VOXELS)]), roi=("voxel", ["FFA", "PPA"] * 3 + ["FFA"])
    )
    braincl.save_responses(with_grid(context), folder / "context.nc")
    return folder


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def expected_texts(model, texts):
    with torch.inference_mode():
        return unit(model.encode_text(open_clip.tokenize(texts, context_length=16)).numpy())


def test_prompts_are_embedded_as_open_clip_does_and_averaged_over_templates(model, known, weights):
    text = load_text_encoder(known, weights)
    np.testing.assert_allclose(embed_prompts(text, PROMPTS), expected_texts(model, PROMPTS), atol=1e-6)
    found = embed_prompts(text, ["face"], ["a photo of a {}", "a drawing of a {}", "{}"])
    by_hand = expected_texts(model, ["a photo of a face", "a drawing of a face", "face"]).mean(axis=0)
    np.testing.assert_allclose(found[0], unit(by_hand), atol=1e-6)


def test_selectivity_is_the_similarity_of_weights_and_text(model, weights, folder):
    context = braincl.open_responses(folder / "context.nc")
    encoder = braincl.RidgeCV().fit(context["embedding"].values, context["response"].values)
    texts = expected_texts(model, PROMPTS)
    dot = query_text(braincl.RidgeCV(), context, PROMPTS, weights, similarity="dot")
    np.testing.assert_allclose(dot["selectivity"], texts @ encoder.coef_.T, atol=1e-5)
    # what the encoder predicts for a picture whose embedding is the text's, but for the bias
    np.testing.assert_allclose(dot["selectivity"], encoder.predict(texts) - encoder.intercept_, atol=1e-4)
    cosine = query_text(braincl.RidgeCV(), context, PROMPTS, weights)
    varying = np.arange(VOXELS) != 3
    np.testing.assert_allclose(cosine["selectivity"][:, varying], texts @ unit(encoder.coef_[varying]).T, atol=1e-5)
    assert not cosine["selectivity"][:, 3].any()
    assert cosine["prompt"].values.tolist() == PROMPTS
    assert cosine.attrs["backbone"] == "tiny-clip"
    contrast = query_text(braincl.RidgeCV(), context, PROMPTS, weights, contrast=True)
    values = cosine["selectivity"].values
    np.testing.assert_allclose(contrast["selectivity"], values[:1] - values[1:], atol=1e-6)
    assert contrast["prompt"].values.tolist() == ["a photo of a face - a photo of a house"]


def test_a_voxel_tuned_to_a_text_is_found_and_units_do_not_matter():
    directions = unit(np.random.default_rng(0).standard_normal((3, 5)))
    weights = np.stack([7 * directions[1], -0.1 * directions[2]])
    found = _text_selectivity(weights, directions)
    np.testing.assert_allclose([found[1, 0], found[2, 1]], [1, -1])
    np.testing.assert_allclose(_text_selectivity(weights * [[3], [100]], directions), found)
    with pytest.raises(braincl.ModelError, match="5 features, the text embeddings 4"):
        _text_selectivity(weights, directions[:, :4])


def test_areas_are_summarised(weights, folder):
    found = query_text(braincl.RidgeCV(), braincl.open_responses(folder / "context.nc"), PROMPTS, weights)
    rows = roi_summary(found)
    assert [(row["roi"], row["prompt"], row["voxels"]) for row in rows] == [
        (roi, prompt, {"FFA": 4, "PPA": 3}[roi]) for roi in ("FFA", "PPA") for prompt in PROMPTS
    ]
    np.testing.assert_allclose(rows[3]["mean"], found["selectivity"].values[1, [1, 3, 5]].mean(), rtol=1e-5)
    assert all(row["interval_low"] <= row["mean"] <= row["interval_high"] for row in rows)
    assert {row["roi"] for row in roi_summary(found.drop_vars("roi"))} == {"all"}


def test_command(weights, folder, tmp_path, capsys):
    small = str(save_small_model(tmp_path / "model"))
    out = tmp_path / "map.nii.gz"
    argv = ["query", "--model", small, "--context", str(folder / "context.nc"), "--weights", str(weights), "--out"]
    assert main([*argv, str(out), "--json", "--", *PROMPTS]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["prompts"] == PROMPTS
    context = braincl.open_responses(folder / "context.nc")
    found = query_text(braincl.InContextEncoder.from_pretrained(small), context, PROMPTS, weights)
    assert report["rois"] == roi_summary(found)
    volume = nibabel.load(out)
    assert volume.shape == (3, 4, 5, 2)
    at = tuple(context[axis].values for axis in "ijk")
    np.testing.assert_allclose(np.asarray(volume.dataobj)[at].T, found["selectivity"], rtol=1e-6)
    assert main([*argv, str(tmp_path / "c.nii"), "--contrast", "--similarity", "dot", "--template", "a {}",
                 "--template", "the {}", "--", "face", "house"]) == 0  # fmt: skip
    assert nibabel.load(tmp_path / "c.nii").shape == (3, 4, 5)
    printed = capsys.readouterr().out
    assert "face - house" in printed
    assert "FFA" in printed


def test_what_cannot_be_asked(weights, folder, tmp_path):
    context, ridge = braincl.open_responses(folder / "context.nc"), braincl.RidgeCV()
    for options, message in [
        ({"prompts": []}, "prompt is empty"),
        ({"prompts": [" "]}, "prompt is empty"),
        ({"prompts": ["a"], "contrast": True}, "exactly 2 prompts"),
        ({"prompts": ["a"], "templates": ["a photo"]}, "each template"),
        ({"prompts": ["a"], "similarity": "l2"}, "cosine, dot"),
    ]:
        with pytest.raises(braincl.ResponseError, match=message):
            query_text(ridge, context, weights=weights, **options)

    def asked(message, error=braincl.ModelError, data=context, given=weights, **options):
        with pytest.raises(error, match=message):
            query_text(ridge, data, ["a face"], given, **options)

    asked("dinov2-vit-b-14 has no text tower.*clip-vit-b-32", data=context.assign_attrs(backbone="dinov2-vit-b-14"))
    asked(
        "has no text tower that is known here", data=context.assign_attrs(backbone="MobileNetV2, mean over positions")
    )
    asked("has backbone 'tiny-clip', the text tower is that of 'clip-vit-b-16'", backbone="clip-vit-b-16")
    asked("SHA-256 aaa", data=context.assign_attrs(weights_sha256="aaa"))
    silent = context.drop_attrs()
    asked("does not state its backbone", data=silent)
    asked("did you mean", data=silent, backbone="clip-vit-b32")
    narrow = silent.drop_vars("embedding").assign(embedding=context["embedding"][:, :9])
    asked("9 features, the text embeddings 24", data=narrow, backbone="tiny-clip")
    query_text(ridge, silent, ["a face"], weights, backbone="tiny-clip")
    image_side = {name: value for name, value in load_text_encoder(BACKBONES["tiny-clip"], weights).network.state_dict()
                  .items() if name.startswith("visual.")}  # fmt: skip
    save_tensors(tmp_path / "visual.safetensors", image_side)
    asked("holds no text tower", CheckpointError, given=tmp_path / "visual.safetensors")


def test_the_command_writes_nothing_where_it_cannot_answer(weights, folder, tmp_path, capsys):
    context = braincl.open_responses(folder / "context.nc").assign_attrs(backbone="mobilenet_v2")
    braincl.save_responses(context, tmp_path / "m.nc")
    argv = ["query", "a face", "--context", str(tmp_path / "m.nc"), "--weights", str(weights), "--out"]
    assert main([*argv, str(tmp_path / "map.nii.gz")]) == 2
    assert main([*argv, str(tmp_path / "map.img")]) == 2
    captured = capsys.readouterr().err
    assert "mobilenet_v2 has no text tower" in captured
    assert captured.count("\n") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.nc"]


def test_voxels_need_positions_for_a_map_only(weights, folder, tmp_path, capsys):
    context = braincl.open_responses(folder / "context.nc")
    nowhere = context.drop_vars(["i", "j", "k"])
    del nowhere.attrs["affine"], nowhere.attrs["grid_shape"]
    braincl.save_responses(nowhere, tmp_path / "nowhere.nc")
    ask = ["query", "a face", "--weights", str(weights), "--json", "--context"]
    assert main([*ask, str(tmp_path / "nowhere.nc")]) == 0
    without = json.loads(capsys.readouterr().out)
    assert main([*ask, str(folder / "context.nc"), "--out", str(tmp_path / "map.nii.gz")]) == 0
    assert without == json.loads(capsys.readouterr().out) | {"out": None}
    assert {row["roi"] for row in without["rois"]} == {"FFA", "PPA"}
    assert main([*ask, str(tmp_path / "nowhere.nc"), "--out", str(tmp_path / "no.nii.gz")]) == 2
    assert "a NIfTI image needs coordinates i, j, k" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.nii.gz", "nowhere.nc"]


def test_a_vocabulary_that_cannot_be_fetched(known, weights, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("open_clip.get_tokenizer", offline)
    with pytest.raises(CheckpointError, match="vocabulary of tiny-clip cannot be fetched"):
        load_text_encoder(known, weights)
