"""Names as queries: through CLIP's own space, through a learned map, and what is no name."""

import json

import numpy as np
import pytest
import xarray as xr
from standin import save_small_model
from synthetic import with_grid

import braincl
from braincl.analysis.names import LEAST_NAMES, fit_name_map, picture_names, top_names
from braincl.cli.main import main
from braincl.errors import ModelError, ResponseError
from setcore.errors import InputError
from setcore.name_bank import load_name_bank

FURNITURE = {
    "armchair", "chair", "folding chair", "deck chair", "rocking chair", "recliner", "stool", "step stool", "sofa",
    "couch", "sofa bed", "footstool", "bench", "highchair", "table", "desk", "bed", "ottoman", "futon", "loveseat",
}  # fmt: skip
FEATURES, VOXELS = 20, 7


@pytest.fixture(scope="module")
def bank():
    return load_name_bank()


def subject(bank, rows, mapping=None, voxels=VOXELS, noise=0.3, seed=0):
    """Three pictures of every name: its text vector, noise beside it, in CLIP's space or one of fewer features."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(rows, 3)
    X = bank.vectors[rows] + noise / np.sqrt(512) * rng.standard_normal((len(rows), 512))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    X = X if mapping is None else X @ mapping
    Y = rng.standard_normal((len(rows), voxels))
    dataset = braincl.from_arrays(Y.astype("f4"), X.astype("f4"), subject="S1")
    files = [f"pictures/{bank.names[row].replace(' ', '_')}_{k % 3:03d}.jpg" for k, row in enumerate(rows)]
    return dataset.assign_coords(image_file=("image", np.array(files)))


@pytest.fixture(scope="module")
def rows(bank):
    plain = [row for row, name in enumerate(bank.names) if name.replace(" ", "").isalpha()]
    return np.random.default_rng(1).permutation(plain)[:90]


def test_names_come_from_files_folders_or_a_coordinate(bank, rows):
    context = subject(bank, rows[:4])
    assert picture_names(context)[::3] == [bank.names[row] for row in rows[:4]]
    given = {
        "a/armchair_012.jpg": "armchair", "donkey/0007.png": "donkey", "donkey/x12.png": "donkey", "qqq/zzz.png": "",
    }  # fmt: skip
    files = xr.Dataset(coords={"image_file": ("image", list(given))})
    assert picture_names(files) == list(given.values())
    assert picture_names(files.assign_coords(name=("image", ["Tuba", "tuba", "", "qqq"]))) == ["tuba", "tuba", "", ""]
    with pytest.raises(ResponseError, match="it needs the coordinate 'name'"):
        picture_names(files.drop_vars("image_file"))


def test_an_exact_map_is_found_and_says_so(bank, rows):
    mapping = np.random.default_rng(2).standard_normal((512, FEATURES))
    name_map = fit_name_map(subject(bank, rows, mapping, noise=0))
    assert len(name_map.names) == 90
    other = np.setdiff1d(np.arange(len(bank)), rows)[:200]
    true = (bank.vectors[other] - name_map.text_mean) @ mapping
    guessed = name_map.directions(bank.vectors[other].astype(float))
    unexplained = np.square(true - guessed).sum() / np.square(true).sum()
    assert unexplained < 0.75  # 90 names, 512 directions
    assert name_map.explained_variance == pytest.approx(1 - unexplained, abs=0.15)
    assert name_map.two_alternative > 0.85


def test_the_score_is_that_of_names_left_out_one_by_one(bank, rows):
    """What is found in closed form equals fits without each name, at the strength that was chosen."""
    context = subject(bank, rows[:15], np.random.default_rng(2).standard_normal((512, FEATURES)))
    name_map = fit_name_map(context)
    X = np.array(
        [context["embedding"].values[np.array(picture_names(context)) == name].mean(0) for name in name_map.names]
    )
    T = bank.vectors[[bank.find(name) for name in name_map.names]].astype(float)
    best = np.inf
    gram = T - T.mean(axis=0)
    for strength in np.geomspace(1e-2, 1e2, 13) * np.square(gram).sum() / 15:
        error = 0
        for k in range(15):
            rest = np.arange(15) != k
            A, B = T[rest] - T[rest].mean(axis=0), X[rest] - X[rest].mean(axis=0)
            W = A.T @ np.linalg.solve(A @ A.T + strength * np.eye(14), B)
            error += np.square(X[k] - X[rest].mean(axis=0) - (T[k] - T[rest].mean(axis=0)) @ W).sum()
        best = min(best, error)
    assert name_map.explained_variance == pytest.approx(1 - best / np.square(X - X.mean(axis=0)).sum(), abs=1e-4)


def test_names_that_tell_nothing_score_nothing(bank, rows):
    context = subject(bank, rows, np.random.default_rng(2).standard_normal((512, FEATURES)))
    shuffled = context.assign_coords(image_file=("image", np.roll(context["image_file"].values, 31)))
    name_map = fit_name_map(shuffled)
    assert abs(name_map.explained_variance) < 0.1
    assert abs(name_map.two_alternative - 0.5) < 0.12


@pytest.mark.parametrize("mapped", [False, True])
def test_a_voxel_of_chairs_has_furniture_in_its_top_ten(bank, rows, mapped):
    chairs = [
        bank.find(name) for name in ("chair", "armchair", "folding chair", "stool", "sofa", "bench", "bed", "table")
    ]
    rows = np.union1d(rows, chairs)
    mapping = np.random.default_rng(3).standard_normal((512, 60)) if mapped else None
    context = subject(bank, rows, mapping)
    tuned = np.isin(np.repeat(rows, 3), chairs[:4]).astype("f4")[:, None]
    encoder = braincl.RidgeCV().fit(context["embedding"].values, tuned)
    found = top_names(encoder.coef_, name_map=fit_name_map(context) if mapped else None)[0]
    assert len(set(found) & FURNITURE) >= 4


def test_top_names_of_unit_vectors_are_themselves_and_widths_are_checked(bank):
    rows = [bank.find("tuba"), bank.find("donkey")]
    assert [names[0] for names in top_names(bank.vectors[rows], k=3)] == ["tuba", "donkey"]
    with pytest.raises(InputError, match=r"512 features .* these vectors 20"):
        top_names(np.ones((3, 20)))
    with pytest.raises(ModelError, match=r"the weights have shape \(2, 3, 512\); \(voxel, feature\)"):
        top_names(np.ones((2, 3, 512)))


@pytest.mark.parametrize("mapped", [False, True])
def test_voxels_without_weights_prefer_nothing_and_are_named(bank, rows, mapped):
    name_map = fit_name_map(subject(bank, rows, np.eye(512))) if mapped else None
    weights = np.stack([bank.vectors[rows[4]], np.zeros(512), bank.vectors[rows[9]], np.full(512, np.nan)])
    expected = top_names(weights[[0, 2]], 3, name_map)
    with pytest.warns(UserWarning, match=r"2 of 4 voxels have weights that are all 0 or not finite.*: 1, 3 \(from 0\)"):
        assert top_names(weights, 3, name_map) == [expected[0], [], expected[1], []]
    weights[2, 7] = np.inf
    with pytest.warns(UserWarning, match=r"3 of 4 voxels .*: 1, 2, 3 \(from 0\)"):
        assert top_names(weights, 3, name_map) == [expected[0], [], [], []]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("models") / "small")


def test_query_by_a_name_is_query_by_its_vector(bank, rows):
    context = subject(bank, rows[:30])
    encoder = braincl.RidgeCV()
    found = braincl.query_text(encoder, context, ["donkey", "Tuba"], bank="names")
    weights = encoder.fit(context["embedding"].values, context["response"].values).coef_
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    expected = bank.vectors[[bank.find("donkey"), bank.find("tuba")]] @ weights.T
    np.testing.assert_allclose(found["selectivity"].values, expected, atol=1e-5)
    assert found.attrs["bank"] == "names"


def test_query_through_a_map_is_the_predicted_response(bank, rows):
    mapping = np.random.default_rng(2).standard_normal((512, FEATURES))
    context, encoder = subject(bank, rows, mapping), braincl.RidgeCV()
    found = braincl.query_text(encoder, context, ["donkey"], bank="names", map_to_names=True, similarity="dot")
    name_map = fit_name_map(context)
    encoder.fit(context["embedding"].values, context["response"].values)
    at = name_map.directions(bank.vectors[[bank.find("donkey")]].astype(float)) + name_map.embedding_mean
    middle = name_map.embedding_mean[None]
    expected = encoder.predict(at.astype("f4")) - encoder.predict(middle.astype("f4"))
    np.testing.assert_allclose(found["selectivity"].values, expected, atol=1e-4)
    assert found.attrs["map_two_alternative"] == name_map.two_alternative
    cosine = braincl.query_text(encoder, context, ["donkey"], bank="names", map_to_names=True)
    assert np.abs(cosine["selectivity"].values).max() <= 1


def test_wrong_questions_name_both_sides(bank, rows):
    context, encoder = subject(bank, rows[:30]), braincl.RidgeCV()
    narrow = context.isel(feature=slice(0, FEATURES)).assign_attrs(backbone="mobilenet")
    with pytest.raises(ModelError, match=r"20 features and backbone 'mobilenet', the names 512 .*--map-to-names"):
        braincl.query_text(encoder, narrow, ["donkey"], bank="names")
    with pytest.raises(InputError, match="'donky' is none of the 1391 names"):
        braincl.query_text(encoder, context, ["donky"], bank="names")
    with pytest.raises(ResponseError, match=r"give the weights of a CLIP model or bank='names'"):
        braincl.query_text(encoder, context, ["donkey"], "clip.safetensors", bank="names")
    few = subject(bank, rows[:5])
    with pytest.raises(
        ResponseError, match=rf"15 pictures show 5 of the bank's 1391 names; .* from {LEAST_NAMES} or more"
    ):
        braincl.query_text(encoder, few, ["donkey"], bank="names", map_to_names=True)
    with pytest.raises(ModelError, match="the map is to 512 features, the weights have 20"):
        top_names(np.ones((1, 20)), name_map=fit_name_map(context))


def test_the_command_prints_the_score_of_the_map(bank, rows, model, tmp_path, capsys):
    mapping = np.random.default_rng(2).standard_normal((512, FEATURES))
    context = with_grid(subject(bank, rows, mapping))
    context.to_netcdf(tmp_path / "context.nc", engine="h5netcdf")
    argv = ["query", "donkey", "tuba", "--bank", "names", "--map-to-names", "--model", str(model), "--context",
            str(tmp_path / "context.nc"), "--out", str(tmp_path / "map.nii.gz")]  # fmt: skip
    assert main(argv) == 0
    name_map = fit_name_map(context)
    line = (
        f"names were mapped by 90 of them, each left out in turn: explained variance {name_map.explained_variance:.3f}"
    )
    assert line in capsys.readouterr().out
    assert main([*argv, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["map_two_alternative"] == pytest.approx(name_map.two_alternative)
