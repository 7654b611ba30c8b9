import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from make_tiny_model import DATA, golden_meshes
from PIL import Image

from setcore.checkpoint import save_model
from vat3d import MeshTokenizer
from vat3d.cli.main import build_parser, main
from vat3d.generation.network import GeneratorConfig, TokenTransformer
from vat3d.mesh.fill import FILLS

MODEL = str(DATA / "tiny")


@pytest.fixture(scope="module")
def mesh_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("meshes") / "ellipsoid.ply"
    golden_meshes()["ellipsoid"].export(path)
    return path


@pytest.fixture(scope="module")
def token_file(mesh_file: Path) -> Path:
    out = mesh_file.with_name("ellipsoid.vat")
    assert main(["encode", str(mesh_file), str(out), "--effort", "fast", "--max-bytes", "150", "--model", MODEL]) == 0
    return out


def result(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """One line on standard error, status 2, nothing on standard output."""
    capsys.readouterr()
    try:
        status = main(list(arguments))
    except SystemExit as stop:
        status = int(stop.code or 0)
    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_every_command_has_help() -> None:
    parser = build_parser()
    for command in (
        "encode", "decode", "info", "eval", "bench", "generate", "prepare", "corpus", "train", "tune",
        "train-generator",
    ):  # fmt: skip
        with pytest.raises(SystemExit) as stop:
            parser.parse_args([command, "--help"])
        assert stop.value.code == 0


def test_encode_decode_eval_info(
    capsys: pytest.CaptureFixture[str], mesh_file: Path, token_file: Path, tmp_path: Path
) -> None:
    assert token_file.stat().st_size <= 150
    info = result(capsys, "info", str(token_file), "--model", MODEL)
    assert info["bytes"] == token_file.stat().st_size
    assert sum(info["scales"]) == info["tokens"]
    for suffix in (".obj", ".ply", ".stl", ".glb"):
        out = tmp_path / f"decoded{suffix}"
        decoded = result(capsys, "decode", str(token_file), str(out), "--model", MODEL, "--resolution", "32")
        assert decoded["watertight"]
        assert len(trimesh.load(out, force="mesh").faces) == decoded["faces"]
    scores = result(capsys, "eval", str(mesh_file), str(tmp_path / "decoded.ply"))
    assert scores["watertight"]
    assert 0 < scores["f_score@0.005"] < scores["f_score@0.02"] <= 1


def test_encode_says_what_was_closed_and_what_became_a_shell(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A ball with one face missing and a fin, beside a bowl."""
    ball = trimesh.creation.icosphere(subdivisions=3)
    count, foot = len(ball.vertices), ball.faces[5][:2]
    vertices = np.concatenate([ball.vertices, ball.vertices + np.array([3, 0, 0]), [1.5 * ball.vertices[foot].mean(0)]])
    faces = np.concatenate([ball.faces[1:], ball.faces[:400] + count, [[*foot, 2 * count]]])
    trimesh.Trimesh(vertices, faces, process=False).export(tmp_path / "in.ply")
    capsys.readouterr()
    arguments = ["--effort", "fast", "--max-bytes", "150", "--model", MODEL]
    assert main(["encode", str(tmp_path / "in.ply"), str(tmp_path / "out.vat"), *arguments]) == 0
    said = capsys.readouterr().out
    assert "cracks and small holes of 1 parts were closed" in said
    assert "1 open parts and 1 faces that bound nothing became shells" in said


def test_encode_says_which_walls_were_kept(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    parts = [trimesh.creation.box((2, 1.2, 1)), trimesh.creation.icosphere(3, 0.4)]
    trimesh.util.concatenate(parts).export(tmp_path / "in.ply")
    command = ["encode", str(tmp_path / "in.ply"), str(tmp_path / "out.vat"), "--model", MODEL, "--effort", "fast"]
    for fill in FILLS:
        capsys.readouterr()
        assert main([*command, "--fill", fill]) == 0
        assert ("walls within other parts were kept" in capsys.readouterr().out) == (fill == "even-odd")


def test_a_folder_in_a_folder_out(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    meshes, out = tmp_path / "meshes", tmp_path / "tokens"
    meshes.mkdir()
    for name in ("box", "torus"):
        golden_meshes()[name].export(meshes / f"{name}.obj")
    (meshes / "broken.obj").write_text("f 1 2 3\n")
    arguments = ["encode", str(meshes), str(out), "--effort", "fast", "--max-bytes", "120", "--model", MODEL, "--json"]
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert said.err.startswith(f"{meshes / 'broken.obj'}: ")
    found = json.loads(said.out)
    assert sorted(path.name for path in out.iterdir()) == ["box.vat", "torus.vat"]
    assert all(path.stat().st_size <= 120 for path in out.iterdir())
    assert [Path(failure["input"]).name for failure in found["failures"]] == ["broken.obj"]


def test_a_folder_that_was_interrupted_goes_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meshes = tmp_path / "meshes"
    meshes.mkdir()
    for number in range(3):
        trimesh.creation.box((1, 2, 2 + number)).export(meshes / f"box{number}.ply")
    command = ["encode", str(meshes), str(tmp_path / "tokens"), "--effort", "fast", "--model", MODEL, "--json"]
    encode, calls = MeshTokenizer.encode, []

    def counted(self: MeshTokenizer, mesh: Path, *arguments: object, **options: object) -> object:
        calls.append(Path(mesh).name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(self, mesh, *arguments, **options)

    monkeypatch.setattr(MeshTokenizer, "encode", counted)
    assert main(command) == 130
    (meshes / "box1.ply").write_bytes((meshes / "box2.ply").read_bytes())
    capsys.readouterr()
    assert main(command) == 0
    said = capsys.readouterr()
    assert calls == ["box0.ply", "box1.ply", "box2.ply", "box1.ply", "box2.ply"]
    assert "1 files were done by a run that was interrupted" in said.err
    assert [Path(file["out"]).name for file in json.loads(said.out)["files"]] == ["box0.vat", "box1.vat", "box2.vat"]
    assert sorted(path.name for path in (tmp_path / "tokens").iterdir()) == ["box0.vat", "box1.vat", "box2.vat"]
    assert main(command) == 0
    assert len(calls) == 8  # a job that was done is done anew


def test_several_meshes_need_a_folder(capsys: pytest.CaptureFixture[str], mesh_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "all.vat"
    assert "a folder, for several files" in refused(
        capsys, "encode", str(mesh_file), str(mesh_file), str(out), "--model", MODEL
    )
    assert not out.exists()


def test_a_score_that_is_not_reached_is_said(
    capsys: pytest.CaptureFixture[str], mesh_file: Path, tmp_path: Path
) -> None:
    command = ["encode", str(mesh_file), str(tmp_path / "a.vat"), "--effort", "fast", "--max-bytes", "60"]
    found = result(capsys, *command, "--model", MODEL, "--min-f-score", "1")
    assert found["f_score@0.02"] < 1
    assert any("does not reach 1" in note for note in found["notes"])
    for option, value in (("--min-f-score", "1.5"), ("--min-f-score", "0"), ("--time-limit", "-1")):
        assert "is not a number above 0" in refused(capsys, *command, option, value)


def test_model_information(capsys: pytest.CaptureFixture[str], token_file: Path, generator_folder: str) -> None:
    assert result(capsys, "info", MODEL) == result(capsys, "info", "--model", MODEL)
    generator = result(capsys, "info", generator_folder)
    assert (generator["categories"], generator["codes"]) == (["chair", "lamp"], 32)
    assert result(capsys, "info", "generator")["categories"]
    tokens = result(capsys, "info", str(token_file), "--model", MODEL)
    assert len(tokens["levels"]) == len(tokens["scales"])
    assert 0 <= tokens["thickness"] <= 15
    assert "neither a model folder" in refused(capsys, "info", "nothing")
    assert "name one" in refused(capsys, "info", MODEL, "--model", MODEL)
    assert "cannot read" in refused(capsys, "info", "nothing.vat")
    info = result(capsys, "info", "--model", MODEL)
    assert info["parameters"] > 10_000
    assert len(info["perplexity"]) == len(info["codes_in_use"]) == len(info["scales"])


def test_refusals(capsys: pytest.CaptureFixture[str], mesh_file: Path, token_file: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out.vat")
    assert "No such file" in refused(capsys, "encode", str(tmp_path / "none.ply"), out, "--model", MODEL)
    assert ".vat" in refused(capsys, "encode", str(mesh_file), str(tmp_path / "out.obj"), "--model", MODEL)
    assert "first scale" in refused(capsys, "encode", str(mesh_file), out, "--max-bytes", "20", "--model", MODEL)
    assert "neither" in refused(capsys, "encode", str(mesh_file), out, "--model", "nothing")
    assert not Path(out).exists()
    cut = tmp_path / "cut.vat"
    cut.write_bytes(token_file.read_bytes()[:-3])
    for arguments in (["decode", str(cut), str(tmp_path / "a.obj")], ["info", str(cut)]):
        said = refused(capsys, *arguments, "--model", MODEL)
        assert "checksum" in said
        assert str(cut) in said
    assert "which is not here" in refused(capsys, "decode", str(token_file), str(tmp_path / "a.obj"))
    refused(capsys, "decode", str(token_file), str(tmp_path / "a.xyz"), "--model", MODEL)
    refused(capsys, "decode", str(token_file), str(tmp_path / "a.obj"), "--model", MODEL, "--resolution", "4000")
    refused(capsys, "train", str(tmp_path), "--out", str(tmp_path / "model"))
    refused(capsys, "bench", str(tmp_path), "--budgets", "-3", "--json", str(tmp_path / "b.json"))
    refused(capsys, "bench", str(tmp_path), "--json", str(tmp_path / "b.json"), "--model", MODEL)
    refused(capsys, "generate")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.vat"]


def test_prepare_and_train(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    meshes = tmp_path / "meshes"
    meshes.mkdir()
    for index in range(3):
        trimesh.creation.box(1 + np.arange(3) * (index + 1) / 4).export(meshes / f"box{index}.ply")
    data, model = tmp_path / "data", tmp_path / "model"
    assert result(capsys, "prepare", str(meshes), "--out", str(data))["meshes"] == 3
    assert result(capsys, "prepare", str(meshes), "--fill", "even-odd", "--out", str(tmp_path / "inner"))["meshes"] == 0
    trained = result(
        capsys, "train", str(data), "--out", str(model), "--preset", "small", "--steps", "2", "--seed", "1"
    )
    assert trained["step"] == 2
    assert "--resume" in refused(capsys, "train", str(data), "--out", str(model), "--preset", "small", "--steps", "2")
    assert result(capsys, "info", "--model", str(model))["step"] == 2


def test_import_is_light() -> None:
    code = (
        "import sys, torch, vat3d; "
        "heavy = {'matplotlib', 'open_clip', 'IPython', 'jupyter', 'braincl', 'skimage', 'igl'} & set(sys.modules); "
        "sys.exit(', '.join(heavy) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def generator_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained generator of the tiny model's tokens."""
    folder = tmp_path_factory.mktemp("generator")
    model = MeshTokenizer.from_pretrained(MODEL).model
    torch.manual_seed(0)
    config = GeneratorConfig(
        model.model_id, model.scales[:3], codes=32, channels=4, width=16, heads=2, hidden=24, layers=1,
        names=("chair", "lamp"),
    )  # fmt: skip
    save_model(folder, config, TokenTransformer(config), half=True)
    return str(folder)


def test_generate_writes_a_mesh_or_its_tokens(
    capsys: pytest.CaptureFixture[str], generator_folder: str, tmp_path: Path
) -> None:
    options = ["--generator", generator_folder, "--model", MODEL, "--seed", "5"]
    meshes = []
    for name in ("one.obj", "again.obj"):
        out = str(tmp_path / name)
        found = result(capsys, "generate", out, "--category", "lamp", "--resolution", "32", *options)
        assert found["watertight"]
        assert found["category"] == "lamp"
        meshes.append(Path(out).read_bytes())
    assert meshes[0] == meshes[1]
    tokens = str(tmp_path / "one.vat")
    found = result(capsys, "generate", tokens, "--category", "lamp", *options)
    assert found["bytes"] == Path(tokens).stat().st_size
    decoded = str(tmp_path / "decoded.obj")
    result(capsys, "decode", tokens, decoded, "--resolution", "32", "--model", MODEL)
    assert Path(decoded).read_bytes() == meshes[0]


def test_generate_writes_several_shapes_and_a_contact_sheet(
    capsys: pytest.CaptureFixture[str], generator_folder: str, tmp_path: Path
) -> None:
    options = ["--generator", generator_folder, "--model", MODEL, "--seed", "5", "--resolution", "32"]
    one, several, sheet = tmp_path / "one.ply", tmp_path / "several", tmp_path / "sheet.png"
    result(capsys, "generate", str(one), "--text", "a lamp", *options)
    found = result(
        capsys, "generate", str(several), "--category", "lamp", "--count", "5", "--picture", str(sheet), *options
    )
    assert found["asked"] == "the name 'lamp'"
    assert [path.name for path in sorted(several.iterdir())] == [f"{number:03d}.ply" for number in range(5)]
    assert (several / "000.ply").read_bytes() == one.read_bytes()
    assert [shape["watertight"] for shape in found["shapes"]] == [True] * 5
    with Image.open(sheet) as opened:
        assert opened.size == (4 * 240, 2 * 240)
    tokens, fine = tmp_path / "coarse.vat", tmp_path / "fine.vat"
    result(capsys, "generate", str(tokens), *options)
    result(capsys, "generate", str(fine), "--complete", str(tokens), "--scales", "1", "--category", "lamp", *options)
    coarse, completed = (MeshTokenizer.from_pretrained(MODEL).open(path).tokens for path in (tokens, fine))
    assert (coarse[0] == completed[0]).all()
    assert (coarse[1] != completed[1]).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--category", "sofa"], "chair, lamp"),
        (["--image", "cat.png"], "without pictures"),
        (["--text", " "], "empty"),
        (["--count", "2"], "folder"),
        (["--best-of", "0"], "best_of"),
        (["--guidance", "-1"], "guidance"),
        (["--complete", "gone.vat"], "gone.vat"),
        (["--category", "lamp", "--text", "a chair"], "not allowed"),
        (["--temperature", "0"], "temperature"),
    ],
)
def test_generate_refuses(
    capsys: pytest.CaptureFixture[str], generator_folder: str, tmp_path: Path, arguments: list[str], message: str
) -> None:
    out = tmp_path / "out.obj"
    assert message in refused(
        capsys, "generate", str(out), "--generator", generator_folder, "--model", MODEL, *arguments
    )
    assert not out.exists()
