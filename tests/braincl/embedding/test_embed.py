"""Embedding pictures: features against those of the libraries, runs that are killed, weights that do not fit."""

import hashlib
import json
import os
import subprocess
import sys
from functools import partial

import numpy as np
import open_clip
import pytest
import timm
import torch
import xarray as xr
from PIL import Image
from torchvision.models import mobilenet_v2

import braincl
from braincl.cli.main import main
from braincl.data.responses import open_embeddings
from braincl.embedding import backbones, embed
from braincl.embedding.backbones import BACKBONES, Backbone, build, load_encoder
from setcore.checkpoint import save_tensors
from setcore.errors import CheckpointError, InputError
from setcore.parallel.jobs import Parallel

IMAGES = 7
TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 9, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1},
}
CLIP = Backbone("tiny-clip", "open_clip", "braincl-tiny-clip")


@pytest.fixture(scope="module", autouse=True)
def tiny_config(tmp_path_factory):
    """The architecture `braincl-tiny-clip`, as users add their own to open_clip."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / "braincl-tiny-clip.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder)
    return folder


@pytest.fixture(scope="module")
def clip_model(tiny_config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return open_clip.create_model("braincl-tiny-clip").eval()


@pytest.fixture(scope="module")
def weights(clip_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "clip.safetensors"
    save_tensors(path, clip_model.state_dict())
    return path


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(IMAGES):
        height, width = 40 + number, 61 - number
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def mobilenet_weights(folder):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        network = mobilenet_v2(weights=None).eval()
    torch.save(network.state_dict(), folder / "mobilenet.pt")
    return network, folder / "mobilenet.pt"


def test_clip_features_are_those_of_open_clip_and_of_unit_norm(clip_model, weights, pictures, tmp_path):
    made = braincl.embed_images([pictures], CLIP, weights, batch_size=3, out=tmp_path / "f.nc", device="cpu")
    files = sorted(pictures.iterdir())
    prepare = open_clip.image_transform(32, is_train=False, interpolation="bicubic")
    inputs = torch.stack([prepare(Image.open(file)) for file in files])
    with torch.inference_mode():
        expected = clip_model.encode_image(inputs, normalize=True).numpy()
    assert made["embedding"].dims == ("image", "feature")
    np.testing.assert_allclose(made["embedding"], expected, atol=1e-6)
    assert made["image_id"].values.tolist() == [hashlib.sha1(f.read_bytes()).hexdigest()[:16] for f in files]
    assert made["image_file"].values.tolist() == [str(f) for f in files]
    assert made.attrs["backbone"] == "tiny-clip"
    assert made.attrs["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert '"size": [32, 32]' in made.attrs["preprocessing"]
    xr.testing.assert_identical(xr.load_dataset(tmp_path / "f.nc", engine="h5netcdf"), made)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.nc", "pictures"]

    raw = braincl.embed_images([pictures], CLIP, weights, batch_size=3, device="cpu", normalize=False)
    norms = np.linalg.norm(raw["embedding"], axis=1, keepdims=True)
    assert np.ptp(norms) > 0
    np.testing.assert_allclose(raw["embedding"] / norms, made["embedding"], atol=1e-6)
    assert (raw.attrs["normalization"], made.attrs["normalization"]) == ("none", "unit norm")


def test_weights_of_the_image_side_alone_and_wrapped_weights(clip_model, weights, tmp_path):
    state = clip_model.visual.state_dict()
    torch.save({"state_dict": {f"module.visual.{name}": value for name, value in state.items()}}, tmp_path / "w.bin")
    found = load_encoder(CLIP, tmp_path / "w.bin").network.state_dict()
    expected = load_encoder(CLIP, weights).network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_timm_features_are_those_of_timm(pictures, tmp_path):
    backbone = Backbone("tiny-vit", "timm", "test_vit.r160_in1k")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = timm.create_model("test_vit.r160_in1k", pretrained=False).eval()
    save_tensors(tmp_path / "vit.safetensors", model.state_dict())  # with its classifier
    made = braincl.embed_images([pictures], backbone, tmp_path / "vit.safetensors", batch_size=4, device="cpu")
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    inputs = torch.stack([prepare(Image.open(file).convert("RGB")) for file in sorted(pictures.iterdir())])
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(inputs), pre_logits=True).numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(made["embedding"], expected, atol=1e-5)


def test_mobilenet_takes_its_tensors_by_name_or_by_order(tmp_path):
    network, path = mobilenet_weights(tmp_path)
    by_order = {
        f"renamed_{number}": value
        for number, (name, value) in enumerate(network.features.state_dict().items())
        if not name.endswith("num_batches_tracked")
    }
    torch.save(by_order, tmp_path / "renamed.pt")
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network.features(images).mean(dim=(2, 3))
        for file in (path, tmp_path / "renamed.pt"):
            torch.testing.assert_close(load_encoder(BACKBONES["mobilenet_v2"], file).network(images), expected)
    last = list(by_order)[-1]
    torch.save({name: value[:5] if name == last else value for name, value in by_order.items()}, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match=f"'{last}' has shape \\(5,\\), expected \\(1280,\\)"):
        load_encoder(BACKBONES["mobilenet_v2"], tmp_path / "bad.pt")
    torch.save({name: value for name, value in by_order.items() if name != last}, tmp_path / "short.pt")
    with pytest.raises(CheckpointError, match="no counterpart"):
        load_encoder(BACKBONES["mobilenet_v2"], tmp_path / "short.pt")


@pytest.mark.parametrize(
    ("name", "size", "features"),
    [("clip-vit-b-32", 224, 512), ("clip-vit-b-16", 224, 512), ("siglip-so400m-14-384", 384, 1152),
     ("dinov2-vit-b-14", 518, 768)],
)  # fmt: skip
def test_named_backbones_are_the_real_architectures(name, size, features):
    with torch.device("meta"):  # shapes only: no memory, no time
        network, _, preprocessing = build(BACKBONES[name])
        assert network(torch.empty(2, 3, size, size)).shape == (2, features)
    assert str(size) in preprocessing
    squashed = "squash" in preprocessing
    assert squashed == name.startswith("siglip")


def test_laion_and_openai_weights_differ_in_activation():
    with torch.device("meta"):
        openai, laion = (build(BACKBONES[name])[0] for name in ("clip-vit-b-32", "clip-vit-b-32-laion2b"))
    assert "QuickGELU" in str(openai)
    assert "QuickGELU" not in str(laion)


KILLED = """
import os, sys
import open_clip
from pathlib import Path
from braincl.embedding import embed
from braincl.embedding.backbones import Backbone
configs, pictures, weights, out, batches = sys.argv[1:]
open_clip.add_model_config(configs)
write, left = embed.append_batch, int(batches)
def append(*args):
    global left
    if left == 0:
        os.kill(os.getpid(), 9)
    left -= 1
    write(*args)
embed.append_batch = append
embed.embed_images([pictures], Backbone("tiny-clip", "open_clip", "braincl-tiny-clip"), weights, batch_size=2,
                   device="cpu", out=Path(out))
"""


def test_a_killed_run_goes_on_to_the_same_result(tiny_config, weights, pictures, tmp_path, monkeypatch):
    expected = braincl.embed_images([pictures], CLIP, weights, batch_size=2, device="cpu")
    out, partial = tmp_path / "f.nc", tmp_path / "f.nc.partial"
    argv = [sys.executable, "-c", KILLED, *map(str, (tiny_config, pictures, weights, out, 2))]
    assert subprocess.run(argv, capture_output=True).returncode == -9
    assert partial.is_file()
    assert not out.exists()
    with open(partial, "ab") as file:  # a batch that was being written
        file.write(b"\x02\x00\x00\x00\x18")

    before = partial.read_bytes()
    for settings in ({"batch_size": 3}, {"normalize": False}):
        with pytest.raises(InputError, match=r"comes from a run with other (batch_size|normalization);"):
            braincl.embed_images([pictures], CLIP, weights, **{"batch_size": 2, **settings}, device="cpu", out=out)
    assert partial.read_bytes() == before

    embedded, real = [], embed._embed_batch
    monkeypatch.setattr(embed, "_embed_batch", lambda *args: embedded.append(args[4]) or real(*args))
    made = braincl.embed_images([pictures], CLIP, weights, batch_size=2, device="cpu", out=out)
    assert [len(files) for files in embedded] == [2, 1]  # the third and fourth of four batches
    xr.testing.assert_identical(made, expected)
    xr.testing.assert_identical(xr.load_dataset(out, engine="h5netcdf"), expected)
    assert not partial.exists()


def test_a_damaged_batch_is_made_again_and_a_foreign_file_is_left_alone(weights, pictures, tmp_path, monkeypatch):
    out, partial = tmp_path / "f.nc", tmp_path / "f.nc.partial"

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(embed, "save_netcdf", interrupted)
        with pytest.raises(KeyboardInterrupt):
            braincl.embed_images([pictures], CLIP, weights, batch_size=2, device="cpu", out=out)
    data = bytearray(partial.read_bytes())
    data[-10] ^= 1
    partial.write_bytes(data)
    made = braincl.embed_images([pictures], CLIP, weights, batch_size=2, device="cpu", out=out)
    xr.testing.assert_identical(made, braincl.embed_images([pictures], CLIP, weights, batch_size=2, device="cpu"))
    partial.write_bytes(b"my notes")
    with pytest.raises(InputError, match="no file of `braincl embed`"):
        braincl.embed_images([pictures], CLIP, weights, batch_size=2, device="cpu", out=out)
    assert partial.read_bytes() == b"my notes"


def test_broken_pictures_are_all_named_and_left_out_where_that_is_asked_for(weights, pictures, tmp_path):
    expected = braincl.embed_images([pictures], CLIP, weights, device="cpu")
    names = [name.rpartition("/")[2] for name in expected["image_file"].values.tolist()]
    bad = [str(pictures / names[place]) for place in (1, 4)]
    for path in bad:
        with open(path, "wb") as file:
            file.write(b"no picture")
    with pytest.raises(braincl.ImageError, match=rf"{names[1]} cannot be read.*{names[4]} cannot be read"):
        braincl.embed_images([pictures], CLIP, weights, device="cpu", out=tmp_path / "f.nc")
    broken: dict[str, str] = {}
    made = braincl.embed_images([pictures], CLIP, weights, device="cpu", out=tmp_path / "f.nc", broken=broken)
    assert list(broken) == bad
    xr.testing.assert_allclose(made, expected.isel(image=[0, 2, 3, 5, 6]), atol=1e-6)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n", "truncated"])
def test_a_picture_that_cannot_be_read_is_named_before_anything_is_written(content, weights, pictures, tmp_path):
    whole = (pictures / "3.png").read_bytes()
    (pictures / "4.png").write_bytes(whole[: len(whole) // 2] if content == "truncated" else content)
    with pytest.raises(braincl.ImageError, match=r"4\.png cannot be read as a picture"):
        braincl.embed_images([pictures], CLIP, weights, device="cpu", out=tmp_path / "f.nc")
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_what_is_set_elsewhere_in_torch_does_not_count(weights, pictures):
    expected = braincl.embed_images([pictures], CLIP, weights, device="cpu")
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = braincl.embed_images([pictures], CLIP, weights, device="cpu")
    finally:
        torch.set_default_dtype(torch.float32)
    xr.testing.assert_identical(found, expected)


def test_a_name_that_is_not_utf_8_is_spelt_out(weights, pictures, tmp_path):
    (pictures / "3.png").rename(pictures / os.fsdecode(b"caf\xe9.png"))
    made = braincl.embed_images([pictures], CLIP, weights, device="cpu", out=tmp_path / "f.nc")
    found = xr.load_dataset(tmp_path / "f.nc")
    np.testing.assert_array_equal(found["image_id"], made["image_id"])
    assert str(found["image_file"].values[-1]) == str(pictures / "caf\\udce9.png")


def test_unknown_backbones_list_near_matches(pictures):
    with pytest.raises(braincl.ModelError, match=r"did you mean .*clip-vit-b-32"):
        braincl.embed_images([pictures], "clip-vit-b32")
    with pytest.raises(braincl.ModelError, match="known are: clip-vit-b-32"):
        braincl.embed_images([pictures], "zzz")


def test_weights_that_do_not_fit(clip_model, pictures, tmp_path, monkeypatch):
    save_tensors(tmp_path / "other.safetensors", {"visual.conv1.weight": torch.zeros(3)})
    with pytest.raises(CheckpointError, match=r"tensor 'visual\.class_embedding' is missing"):
        load_encoder(CLIP, tmp_path / "other.safetensors")
    wide = dict(clip_model.state_dict()) | {"visual.proj": torch.zeros(64, 25)}
    save_tensors(tmp_path / "wide.safetensors", wide)
    with pytest.raises(CheckpointError, match=r"'visual\.proj' has shape \(64, 25\), expected \(64, 24\)"):
        load_encoder(CLIP, tmp_path / "wide.safetensors")
    torch.save(clip_model, tmp_path / "object.pt")  # a pickled object
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    (tmp_path / "noise.pt").write_bytes(b"noise")
    (tmp_path / "noise.safetensors").write_bytes(b"noise")
    for name in ("object.pt", "list.pt", "noise.pt", "noise.safetensors", "absent.pt"):
        with pytest.raises(CheckpointError, match=name):
            load_encoder(CLIP, tmp_path / name)

    for value, error, message in [
        (torch.nan, CheckpointError, r"tensor 'visual\.proj' holds NaN"),
        (0.0, braincl.ModelError, r"0\.png an embedding of norm 0\.0"),
    ]:
        broken = dict(clip_model.state_dict()) | {"visual.proj": torch.full((64, 24), value)}
        save_tensors(tmp_path / "broken.safetensors", broken)
        with pytest.raises(error, match=message):
            braincl.embed_images([pictures], CLIP, tmp_path / "broken.safetensors", device="cpu", out=tmp_path / "f.nc")
    assert not list(tmp_path.glob("f.nc*"))

    def offline(*args):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    with pytest.raises(CheckpointError, match=r"hf-hub:timm/vit_base_patch32_clip_224\.openai .*--weights FILE"):
        load_encoder(BACKBONES["clip-vit-b-32"])
    with pytest.raises(CheckpointError, match="no weights on the hub"):
        load_encoder(BACKBONES["mobilenet_v2"])


def test_hub_weights_are_those_of_the_file(weights, monkeypatch):
    asked = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *args: asked.append(args) or str(weights))
    found = load_encoder(CLIP, backbones.HUB + "lab/model")
    assert asked == [("lab/model", "open_clip_model.safetensors")]
    assert found.weights_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_wrong_settings(weights, pictures, tmp_path):
    with pytest.raises(InputError, match="batch size is 0"):
        braincl.embed_images([pictures], CLIP, weights, batch_size=0)
    with pytest.raises(InputError, match="folder that exists"):
        braincl.embed_images([pictures], CLIP, weights, out=tmp_path / "absent" / "f.nc")
    with pytest.raises(InputError, match="device 'abacus' is not there"):
        braincl.embed_images([pictures], CLIP, weights, device="abacus")


def test_command_to_join_and_predict(pictures, tmp_path, capsys):
    _, weights = mobilenet_weights(tmp_path)
    features, subject = tmp_path / "features.nc", tmp_path / "subject.nc"
    argv = ["embed", str(pictures), "--backbone", "mobilenet_v2", "--weights", str(weights), "--out", str(features)]
    assert main([*argv, "--device", "cpu", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["images"], report["features"], report["backbone"]) == (IMAGES, 1280, "mobilenet_v2")
    made = xr.load_dataset(features, engine="h5netcdf")
    responses = xr.Dataset(
        {"response": (("image", "voxel"), np.random.default_rng(1).normal(size=(IMAGES, 5)).astype(np.float32))},
        coords={"image_id": ("image", made["image_id"].values[::-1]), "voxel_id": ("voxel", list("abcde"))},
    )
    braincl.save_responses(responses, tmp_path / "responses.nc")
    assert main(["join", str(tmp_path / "responses.nc"), str(features), "--out", str(subject)]) == 0
    joined = braincl.open_responses(subject)
    np.testing.assert_array_equal(joined["embedding"], made["embedding"][::-1])
    assert joined.attrs["weights_sha256"] == made.attrs["weights_sha256"]

    capsys.readouterr()
    assert main([*argv[:-1], str(weights)]) == 2  # would replace its input
    assert main(["embed", str(pictures), "--backbone", "mobilnet", "--out", str(tmp_path / "x.nc")]) == 2
    error = capsys.readouterr().err
    assert "would replace the input" in error
    assert "did you mean mobilenet_v2" in error
    assert error.count("\n") == 2


@pytest.mark.parametrize("name", ["backbone", "weights_sha256", "normalization"])
def test_embeddings_made_in_two_ways_are_refused(name):
    from synthetic import make_responses

    from braincl.analysis.predict import predict_responses

    dataset = make_responses().assign_attrs(backbone="one", weights_sha256="2", normalization="unit norm")
    context, query = dataset.isel(image=slice(0, 20)), dataset[["embedding"]].isel(image=slice(20, None))
    assert predict_responses(braincl.RidgeCV(), context, query).attrs[name] == dataset.attrs[name]
    del query.attrs[name]  # not stated: nothing to compare
    predict_responses(braincl.RidgeCV(), context, query)
    with pytest.raises(braincl.ResponseError, match=f"the context's embedding has {name} .*embed both in one way"):
        predict_responses(braincl.RidgeCV(), context, query.assign_attrs({name: "other"}))


def test_two_processes_and_two_shares_give_the_same_embeddings(weights, pictures, tmp_path):
    backbone = Backbone("tiny", "torchvision", "mobilenet_v2")
    torch.manual_seed(0)
    save_tensors(tmp_path / "net.safetensors", mobilenet_v2().state_dict())
    embed_with = partial(
        braincl.embed_images, [pictures], backbone, tmp_path / "net.safetensors", batch_size=3, device="cpu"
    )
    whole = embed_with()
    xr.testing.assert_allclose(embed_with(parallel=Parallel(jobs=2)), whole, rtol=1e-5)
    shares = [embed_with(parallel=Parallel(shard=(part, 2))) for part in (2, 1)]
    merged = embed.merge_embeddings(shares)
    assert sorted(merged["image_id"].values) == sorted(whole["image_id"].values)
    xr.testing.assert_allclose(merged.sortby("image_id"), whole.sortby("image_id"), rtol=1e-5)
    empty = embed_with(parallel=Parallel(shard=(IMAGES + 1, IMAGES + 1)), out=tmp_path / "empty.nc")
    assert empty["embedding"].shape == (0, whole.sizes["feature"])
    xr.testing.assert_identical(
        embed.merge_embeddings([open_embeddings(tmp_path / "empty.nc", empty=True), whole])["embedding"],
        whole["embedding"],
    )
    with pytest.raises(InputError, match="not of one encoder"):
        embed.merge_embeddings([whole, whole.assign_attrs(backbone="another")])
