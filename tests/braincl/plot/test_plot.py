"""Every figure is rendered, on the embedded demo subject where it can be; what can be read off it is checked."""

import io
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import braincl
from braincl import plot
from braincl.data.nifti import to_image
from braincl.demo import SUBJECT
from braincl.estimators.in_context import InContextEncoder
from braincl.plot.brain import FSAVERAGE5_VERTICES
from braincl.plot.tuning import principal_components
from setcore.errors import InputError
from setcore.evaluation.metrics import interval_coverage, pearson_r


def render(axes):
    """Pixels of the figure that axes belong to; they must show something."""
    buffer = io.BytesIO()
    figure = axes if isinstance(axes, Figure) else axes.figure
    figure.savefig(buffer, dpi=40)
    pixels = np.asarray(Image.open(buffer).convert("L"))
    assert pixels.std() > 1
    return pixels


@pytest.fixture(scope="module")
def subject():
    return braincl.open_responses(SUBJECT).isel(voxel=slice(None, None, 12))


@pytest.fixture(scope="module")
def test_set(subject):
    return subject.isel(image=slice(80, 180))


@pytest.fixture(scope="module")
def encoder(subject):
    context = subject.isel(image=slice(0, 80))
    return InContextEncoder.from_pretrained("demo").fit(context["embedding"].values, context["response"].values)


@pytest.fixture(scope="module")
def r(encoder, test_set):
    return pearson_r(test_set["response"].values, encoder.predict(test_set["embedding"].values))


@pytest.fixture(scope="module")
def evaluation(subject):
    return braincl.evaluate("demo", subject, contexts=(20, 60), draws=2, test_images=60, resamples=50)


@pytest.mark.parametrize("score", ["pearson_r", "explained_variance"])
def test_curves(evaluation, score):
    axes = plot.draw_scores(evaluation.report, score=score, voxels=evaluation.voxels)
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    expected = [row[score] for row in evaluation.report["results"] if row["method"] == "model"]
    np.testing.assert_allclose(lines["model"], expected)
    closed_forms = {f"population-prior {name}" for name in ("ensemble", "kernels", "ridge")}
    assert set(lines) == {"model", *closed_forms, "ridge", "mean"}
    assert len(axes.collections) == 6  # an interval for each
    for band, line in zip(axes.collections, axes.lines, strict=True):
        low, high = band.get_paths()[0].vertices[:, 1].min(), band.get_paths()[0].vertices[:, 1].max()
        assert low < min(line.get_ydata())
        assert high > max(line.get_ydata())
    render(axes)


def test_curves_without_the_scores_per_voxel_and_unknown_scores(evaluation, tmp_path):
    own = Figure().subplots()
    assert plot.draw_scores(evaluation.report, own, score="explained_variance") is own
    assert not own.collections
    with pytest.raises(braincl.ResponseError, match="pearson_r, explained_variance"):
        plot.draw_scores(evaluation.report, score="nll")
    plot.plot_scores(evaluation.report, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as image:
        assert image.size == (900, 600)


def test_bars_are_means_by_area(subject, r):
    axes = plot.draw_roi_bars({"model": r, "half": r / 2}, subject["roi"].values)
    areas = sorted(set(subject["roi"].values))
    heights = [patch.get_height() for patch in axes.patches]
    means = [np.nanmean(r[subject["roi"].values == area]) for area in areas]
    np.testing.assert_allclose(heights, [*means, *(np.array(means) / 2)])
    assert [label.get_text().split("\n")[0] for label in axes.get_xticklabels()] == areas
    render(axes)
    only = plot.draw_roi_bars(r, subject["roi"].values, order=["RSC", "LOC"])
    np.testing.assert_allclose([p.get_height() for p in only.patches], [means[areas.index(a)] for a in ("RSC", "LOC")])
    with pytest.raises(braincl.ResponseError, match="one for each voxel"):
        plot.draw_roi_bars(r[1:], subject["roi"].values)
    with pytest.raises(braincl.ResponseError, match="'V9' has no voxel"):
        plot.draw_roi_bars(r, subject["roi"].values, order=["V9"])


def test_reliability_is_coverage(encoder, test_set):
    mean, std = encoder.predict(test_set["embedding"].values, return_std=True)
    observed = test_set["response"].values
    axes = plot.draw_reliability(observed, mean, std, label="model")
    curve = axes.lines[1]
    at = list(np.round(curve.get_xdata(), 2)).index(0.9)
    np.testing.assert_allclose(curve.get_ydata()[at], np.nanmean(interval_coverage(observed, mean, std, 0.9)))
    plot.draw_reliability(observed, mean, std / 2, axes, label="too narrow")
    assert (axes.lines[2].get_ydata() < curve.get_ydata()).all()
    assert len(axes.lines) == 3  # one diagonal
    render(axes)


def test_tuning_is_coloured_by_area(encoder, subject):
    axes = plot.draw_tuning(encoder.coef_, subject["roi"].values)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == sorted(set(subject["roi"].values))
    assert len(axes.collections[0].get_offsets()) == subject.sizes["voxel"]
    render(axes)
    scaled = plot.draw_tuning(encoder.coef_ * np.linspace(1, 9, len(encoder.coef_))[:, None], subject["roi"].values)
    np.testing.assert_allclose(scaled.collections[0].get_offsets(), axes.collections[0].get_offsets(), atol=1e-5)
    for weights, method, message in [(encoder.coef_[1:], "pca", "give"), (0 * encoder.coef_, "pca", "0 voxels"),
                                     (encoder.coef_, "tsne", "'pca' or 'umap'")]:  # fmt: skip
        with pytest.raises(braincl.ResponseError, match=message):
            plot.draw_tuning(weights, subject["roi"].values, method=method)


def testprincipal_components_are_those_of_scikit_learn():
    from sklearn.decomposition import PCA

    rows = np.random.default_rng(0).standard_normal((30, 7)) @ np.diag(np.arange(1.0, 8))
    scores, shares = principal_components(rows)
    oracle = PCA(2)
    np.testing.assert_allclose(np.abs(scores), np.abs(oracle.fit_transform(rows)), rtol=1e-8)
    np.testing.assert_allclose(shares, oracle.explained_variance_ratio_)


def test_umap_where_it_is_installed(encoder, subject, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(InputError, match="pip install umap-learn"):
        plot.draw_tuning(encoder.coef_, subject["roi"].values, method="umap")


def test_pictures_in_order_as_arrays_files_and_names(tmp_path):
    pictures = [np.full((4, 6, 3), 20 * number, np.uint8) for number in range(9)]
    Image.fromarray(pictures[8]).save(tmp_path / "8.png")
    pictures[8] = tmp_path / "8.png"
    pictures[0] = "an armchair of long name"
    grid = plot.draw_pictures(np.arange(9.0), pictures, count=3, label="voxel 1-2-3")
    assert grid.shape == (2, 3)
    assert [axes.get_title() for axes in grid.flat] == ["8.00", "7.00", "6.00", "0.00", "1.00", "2.00"]
    assert [int(axes.images[0].get_array()[0, 0, 0]) for axes in grid[0]] == [160, 140, 120]
    assert grid[1, 0].texts[0].get_text() == "an armchair\nof long name"
    render(grid[0, 0])
    with pytest.raises(braincl.ResponseError, match="10 or more"):
        plot.draw_pictures(np.arange(9.0), pictures)


def test_context_shares_of_both_networks(encoder, subject):
    from braincl.analysis.attribution import context_shares

    shares = context_shares(encoder)[7]
    row = plot.draw_context(shares, [f"picture {number}" for number in range(80)], count=4, label="voxel")
    heights = [patch.get_height() for patch in row[0].patches]
    np.testing.assert_allclose(heights, np.sort(shares)[::-1])
    best = np.argsort(-shares)[:4]
    assert [axes.texts[0].get_text().replace("\n", " ") for axes in row[1:]] == [f"picture {n}" for n in best]
    render(row[0])
    with pytest.raises(braincl.ResponseError, match="constant in the context"):
        plot.draw_context(np.full(6, np.nan), ["x"] * 6)
    with pytest.raises(braincl.ResponseError, match="one each"):
        plot.draw_context(shares, ["x"] * 6)


def test_slices_and_glass_brain(subject, r):
    pytest.importorskip("nilearn")
    axes = plot.draw_slices(r, subject, cuts=3, label="Pearson r")
    render(axes)
    own = Figure(figsize=(6, 2)).subplots()
    assert plot.draw_slices(r, subject, own, direction="x", cuts=[-20.0, 10.0]) is own
    render(own)
    glass = plot.draw_glass_brain(r, subject, label="r")
    assert glass.get_title() == "outline: MNI; data: aligned space, so that positions are approximate"
    assert "r" in [axes.get_title("right") for axes in glass.figure.axes]  # above the colour bar
    render(glass)
    image = to_image(r, subject)
    at = tuple(subject[axis].values for axis in "ijk")
    np.testing.assert_array_equal(np.asarray(image.dataobj)[at], r.astype(np.float32))
    with pytest.raises(braincl.ResponseError, match="do not fit"):
        plot.draw_slices(r[1:], subject)
    with pytest.raises(braincl.ResponseError, match="missing: i, j, k"):
        plot.draw_slices(r, subject.drop_vars(["i", "j", "k"]))


def test_surface_of_vertices_and_of_voxels(subject):
    pytest.importorskip("nilearn")
    ones = plot.project_to_surface(np.ones(subject.sizes["voxel"]), subject, "right")
    assert ones.shape == (FSAVERAGE5_VERTICES,)
    assert 10 < np.isfinite(ones).sum() < FSAVERAGE5_VERTICES / 2
    np.testing.assert_allclose(ones[np.isfinite(ones)], 1, rtol=1e-5)  # no dilution by what lies around the voxels
    heights = np.asarray(subject.attrs["affine"]).reshape(4, 4)[2] @ np.stack(
        [*(subject[axis].values for axis in "ijk"), np.ones(subject.sizes["voxel"])]
    )
    from nilearn import datasets, surface

    mesh = datasets.fetch_surf_fsaverage("fsaverage5")
    z = surface.load_surf_mesh(mesh["pial_right"]).coordinates[:, 2]
    found = plot.project_to_surface(heights, subject, "right")
    known = np.isfinite(found)
    assert np.abs(found[known] - z[known]).max() < 8  # a vertex has the values of voxels that are near it
    render(plot.draw_surface(found, "right", view="ventral"))
    with pytest.raises(braincl.ResponseError, match="10242 vertices"):
        plot.draw_surface(np.ones(10), "left")
    with pytest.raises(braincl.ResponseError, match="'left' or 'right'"):
        plot.draw_surface(found, "both")


def test_without_nilearn_the_error_says_what_to_install(subject, monkeypatch):
    for name in ("nilearn", "nilearn.plotting", "nilearn.surface", "nilearn.datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match="pip install nilearn"):
        plot.draw_glass_brain(np.ones(subject.sizes["voxel"]), subject)


def test_unknown_names():
    with pytest.raises(AttributeError, match="draw_brain"):
        plot.draw_brain  # noqa: B018
    assert "draw_scores" in dir(plot)
