"""`make demo`, the brain half: responses of a new subject from 20 and 100 image/response pairs, on embedded data."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braincl.analysis.predict import predict_responses
from braincl.data.nifti import to_nifti
from braincl.data.responses import open_responses, save_netcdf
from braincl.estimators.in_context import InContextEncoder
from braincl.evaluation.report import write_evaluation
from braincl.evaluation.scores import evaluate
from braincl.evaluation.splits import context_draws
from braincl.plot.curves import plot_scores

SUBJECT = Path(__file__).parent / "embedded" / "demo" / "subject.nc"
MODEL = "demo"
PICTURES = SUBJECT.with_name("pictures.jpg")
TILES, TILE = 20, 64  # of a row of `PICTURES`, and pixels of a side of each
SIZES, TEST_IMAGES, DRAWS = (20, 100), 200, 10
METHODS = {
    "model": "braincl",
    "prior_ridge": "population-prior ridge",
    "prior_ensemble": "ensemble of 14 of these",
    "prior_kernel": "kernels under the prior",
    "ridge": "ridge, cross-validated",
    "mean": "population mean",
}


def demo_pictures(image_ids: Any) -> list[NDArray[np.uint8]]:
    """Small pictures of the demo subject (`braincl/embedded/demo/CREDITS.tsv` says whose they are).

    Parameters
    ----------
    image_ids : sequence or array of str
        Of the demo's response set.

    Returns
    -------
    list of uint8 arrays of shape (64, 64, 3)
    """
    from PIL import Image

    sheet = np.asarray(Image.open(PICTURES))
    tiles = sheet.reshape(-1, TILE, TILES, TILE, 3).swapaxes(1, 2).reshape(-1, TILE, TILE, 3)
    number = {name: at for at, name in enumerate(open_responses(SUBJECT)["image_id"].values.tolist())}
    return [tiles[number[str(image_id)]] for image_id in image_ids]


def main() -> None:
    """Evaluate and predict; everything is written below `--out`."""
    parser = argparse.ArgumentParser(prog="python -m braincl.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo_output/braincl"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    encoder = InContextEncoder.from_pretrained(MODEL)
    subject = open_responses(SUBJECT)
    print(
        f"braincl: {subject.attrs['subject']}, {subject.sizes['voxel']} voxels.\n"
        f"The weights were trained on: {', '.join(encoder.training_subjects)}.\n"
    )
    found = evaluate(encoder, subject, SIZES, DRAWS, TEST_IMAGES, progress=True)
    write_evaluation(found, out / "scores.json", plot_scores)
    print(comparison(found.report))

    ids = subject["image_id"].values
    splits = context_draws(ids, SIZES, 1, TEST_IMAGES, 0)
    context, query = subject.isel(image=splits.contexts[SIZES[-1]][0]), subject.isel(image=splits.test)
    predicted = predict_responses(encoder, context, query)
    save_netcdf(predicted, out / "prediction.nc")
    to_nifti(np.asarray(predicted["prediction"]), predicted, out / "prediction.nii.gz")
    print(f"braincl: scores, curve, predictions and their NIfTI lie in {out}/")


def comparison(report: dict[str, Any]) -> str:
    """The scores of the demo beside those of its rivals, and what they mean.

    Parameters
    ----------
    report : dict
        From `braincl.evaluate`, with context sizes `SIZES`.

    Returns
    -------
    str
    """
    rows = {(row["method"], row["n"]): row for row in report["results"]}
    r = {key: row["pearson_r"] for key, row in rows.items()}
    few, many = SIZES
    lines = [f"{'pictures shown':24}{few:>8}{many:>8}{'90 % intervals hold':>22}"]
    for method, name in METHODS.items():
        scores = "".join(f"{r[method, n]:8.3f}" for n in SIZES)
        lines.append(f"{name:24}{scores}{rows[method, many]['coverage_90']:22.1%}")
    lines += [
        "",
        f"First columns: Pearson r of predicted and measured responses to {TEST_IMAGES} pictures that no method saw,",
        f"mean over voxels and {DRAWS} draws of the pictures shown. Last: how many of these responses lie in",
        "the predicted 90 % intervals.",
        f"What is seen: with {few} pictures braincl has r {r['model', few]:.3f} where ridge, which knows no other",
        f"subjects, has {r['ridge', few]:.3f}.",
        "When a rival is as good: population-prior ridge is as good on this simulated subject, as are the two below it",
        f"(all come with braincl); ridge catches up with more pictures: {r['ridge', many]:.3f} against "
        f"{r['model', many]:.3f} at {many}.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
