"""What a model folder says of itself: what `braincl info` prints."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from braincl.models.model_folder import architecture_of, find_model, load_model
from braincl.training.config import stored_schedule


def describe_model(path_or_name: str | Path | None = None) -> dict[str, Any]:
    """What a model is and how it came about, as plain JSON values.

    Parameters
    ----------
    path_or_name : path or str, optional
        A model folder, the name of an embedded model, or (None) the embedded default.

    Returns
    -------
    dict
        `schedule` holds the fields of `braincl.training.config.Schedule`; it and the other facts of training are None
        where the model does not state them, as a converted one cannot.

    Raises
    ------
    ModelError
        There is no such folder or name.
    CheckpointError
        The folder is damaged, or states a schedule that is none.
    """
    folder = find_model(path_or_name)
    network, card = load_model(folder)
    schedule = stored_schedule(card.training, str(folder))
    best = card.training.get("best") or {}
    return {
        "model": str(folder),
        "architecture": architecture_of(folder),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "features": network.config.features or None,  # None: any
        "backbone": card.backbone or None,
        "training_subjects": card.training_subjects,
        "seed": card.training.get("seed"),
        "best_step": best.get("step"),
        "best_stage": best.get("stage"),
        "schedule": None if schedule is None else asdict(schedule),
    }
