"""`make demo`, the brain half: responses of a new subject from 100 image/response pairs, on embedded data."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from braincl.analysis.predict import predict_responses
from braincl.data.nifti import to_nifti
from braincl.data.responses import open_responses, save_netcdf
from braincl.estimators.in_context import InContextEncoder
from braincl.evaluation.report import format_table, write_evaluation
from braincl.evaluation.scores import evaluate
from braincl.evaluation.splits import context_draws
from braincl.plot.curves import plot_scores

SUBJECT = Path(__file__).parent / "embedded" / "demo" / "subject.nc"
MODEL = "demo"
CONTEXT, TEST_IMAGES, DRAWS = 100, 200, 2


def main() -> None:
    """Evaluate and predict; everything is written below `--out`."""
    parser = argparse.ArgumentParser(prog="python -m braincl.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo_output/braincl"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    encoder = InContextEncoder.from_pretrained(MODEL)
    subject = open_responses(SUBJECT)
    print(
        f"braincl: {subject.attrs['subject']}, {subject.sizes['voxel']} voxels, {subject.sizes['image']} pictures. "
        f"The weights were trained on: {', '.join(encoder.training_subjects)}."
    )
    found = evaluate(encoder, subject, (CONTEXT,), DRAWS, TEST_IMAGES, progress=True)
    write_evaluation(found, out / "scores.json", plot_scores)
    print(format_table(found.report))

    ids = subject["image_id"].values
    splits = context_draws(ids, (CONTEXT,), 1, TEST_IMAGES, 0)
    context, query = subject.isel(image=splits.contexts[CONTEXT][0]), subject.isel(image=splits.test)
    predicted = predict_responses(encoder, context, query)
    save_netcdf(predicted, out / "prediction.nc")
    to_nifti(np.asarray(predicted["prediction"]), predicted, out / "prediction.nii.gz")
    print(f"braincl: scores, curve, predictions and their NIfTI lie in {out}/")


if __name__ == "__main__":
    main()
