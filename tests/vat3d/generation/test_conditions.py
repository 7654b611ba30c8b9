"""Names and words to numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from setcore.checkpoint import save_tensors
from setcore.errors import CheckpointError, InputError
from setcore.name_bank import load_name_bank
from vat3d.generation import conditions
from vat3d.generation.conditions import ask_name, ask_words, name_vectors

NAMES = ("birch tree", "chair", "rock", "tree")


def test_vectors_are_those_of_the_bank_or_none():
    bank, vectors = load_name_bank(), name_vectors(NAMES)
    np.testing.assert_array_equal(vectors[1], bank.vectors[bank.find("chair")])
    np.testing.assert_array_equal(vectors[3], bank.vectors[bank.find("Christmas tree")])
    lengths = np.linalg.norm(vectors, axis=1)
    assert all(abs(length - 1) < 1e-3 or length == 0 for length in lengths)


def test_the_longest_known_run_of_words_counts_and_of_equal_ones_the_last():
    assert ask_words("an old birch tree", NAMES).name == "birch tree"
    assert ask_words("a chair below a tree", NAMES).name == "tree"
    bank = load_name_bank()
    found = ask_words("two blue fire engines, or a fire engine", NAMES)
    assert (found.name, found.said) == ("", f"{bank.names[bank.find('fire engine')]!r} of the name bank")
    np.testing.assert_array_equal(found.vector, bank.vectors[bank.find("fire engine")])


def test_unknown_names_and_words_are_refused_with_what_is_near():
    with pytest.raises(InputError, match="chair"):
        ask_name("chairs", NAMES)
    with pytest.raises(InputError, match="CLIP weights"):
        ask_words("qwertz", NAMES)
    with pytest.raises(InputError, match="empty"):
        ask_words(" .,", NAMES)


def test_words_go_through_clip_where_its_weights_are_given(tmp_path, monkeypatch):
    import open_clip

    monkeypatch.setattr(conditions, "CLIP_MODEL", "tiny-clip-text")
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda model: lambda texts: torch.tensor([[1, 2, 3, 49] + [0] * 5]))
    config = tmp_path / "tiny-clip-text.json"
    config.write_text(
        '{"embed_dim": 512, "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8}, '
        '"text_cfg": {"context_length": 9, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}}'
    )
    open_clip.add_model_config(config)
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-clip-text")
    save_tensors(tmp_path / "clip.safetensors", model.state_dict())
    found = ask_words("a violet teapot", NAMES, tmp_path / "clip.safetensors")
    with torch.no_grad():
        expected = model.eval().encode_text(torch.tensor([[1, 2, 3, 49] + [0] * 5]), normalize=True)[0]
    torch.testing.assert_close(torch.from_numpy(found.vector), expected)
    save_tensors(tmp_path / "other.safetensors", {"weight": torch.zeros(3)})
    with pytest.raises(CheckpointError, match=r"other\.safetensors"):
        ask_words("a violet teapot", NAMES, tmp_path / "other.safetensors")
