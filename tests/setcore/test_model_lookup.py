"""Models by folder or by name."""

import pytest

from setcore.checkpoint import WEIGHTS_FILE
from setcore.errors import CheckpointError, InputError
from setcore.model_lookup import embedded_models, find_model_folder


@pytest.fixture
def weights(tmp_path):
    for name in ("second", "first", "unfinished"):
        (tmp_path / "weights" / name).mkdir(parents=True)
        if name != "unfinished":
            (tmp_path / "weights" / name / WEIGHTS_FILE).touch()
    return tmp_path / "weights"


def test_embedded_models_are_the_folders_that_hold_weights(weights):
    assert embedded_models(weights) == {"first": weights / "first", "second": weights / "second"}
    assert list(embedded_models(weights)) == ["first", "second"]
    assert embedded_models(weights, "tokens.safetensors") == {}


def test_a_folder_goes_before_a_name_and_none_is_the_default(weights, tmp_path, monkeypatch):
    embedded = embedded_models(weights) | {"ab12": weights / "first"}
    assert find_model_folder(None, embedded, "second") == weights / "second"
    assert find_model_folder("ab12", embedded, "second") == weights / "first"
    assert find_model_folder(weights / "unfinished", embedded, "second") == weights / "unfinished"
    (tmp_path / "first").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_model_folder("first", embedded, "second").resolve() == tmp_path / "first"


@pytest.mark.parametrize("error", [InputError, CheckpointError])
def test_what_is_neither_is_an_error_of_the_callers_type(weights, error):
    with pytest.raises(error, match="third is neither a model folder nor an embedded model; embedded are: first, sec"):
        find_model_folder("third", embedded_models(weights), "first", error)
    with pytest.raises(InputError, match="embedded are: none"):
        find_model_folder(None, {}, "first")
