"""Names and their text vectors: what is shipped, and what is found by word and by direction."""

import numpy as np
import pytest

from setcore.errors import CheckpointError, InputError
from setcore.name_bank import NameBank, load_name_bank


@pytest.fixture(scope="module")
def bank():
    return load_name_bank()


def small_bank():
    vectors = np.eye(4, 512, dtype=np.float32)
    return NameBank(
        ("bat (animal)", "couch", "sofa", "Baseball_bat"),
        (("bat (animal)",), ("sofa", "couch"), ("sofa",), ("bat",)),
        vectors,
    )


def test_what_is_shipped(bank):
    assert len(bank) == len(set(bank.names)) == len(bank.synonyms) == 1391
    assert bank.vectors.shape == (1391, 512)
    assert bank.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(bank.vectors, axis=1), 1, atol=1e-6)
    assert all("|" not in word and word for words in bank.synonyms for word in words)
    with pytest.raises(ValueError, match="read-only"):
        bank.vectors[0] = 0
    assert load_name_bank() is bank


def test_every_name_finds_its_own_row_and_every_synonym_one_that_has_it(bank):
    assert [bank.find(name) for name in bank.names] == list(range(len(bank)))
    for words in bank.synonyms:
        for word in words:
            row = bank.find(word.upper())
            assert word in (bank.names[row], *bank.synonyms[row])


def test_a_name_comes_before_a_synonym_and_a_whole_spelling_before_a_part():
    bank = small_bank()
    assert bank.find("sofa") == 2
    assert bank.find(" Couch ") == 1
    assert bank.find("bat") == 3  # a synonym as it is spelt, before bat (animal) without its sense
    assert bank.find("BAT (animal)") == 0
    assert bank.find("baseball bat") == 3


def test_an_unknown_word_is_refused_with_words_that_are_spelt_alike(bank):
    with pytest.raises(InputError, match="'donky' is none of the 1391 names and their synonyms; spelt alike: donkey"):
        bank.find("donky")
    with pytest.raises(InputError, match=r"synonyms; give a plain noun$"):
        bank.find("qqqqqqqq")


def test_nearest_of_every_vector_is_its_own_name_whatever_its_length(bank):
    rows, cosines = bank.nearest(bank.vectors * 7, k=1)
    np.testing.assert_array_equal(rows[:, 0], range(len(bank)))
    np.testing.assert_allclose(cosines, 1, atol=1e-5)


def test_nearest_in_order_and_of_a_vector_of_length_zero():
    bank = small_bank()
    query = np.zeros((2, 512), np.float32)
    query[0, :4] = 1, 3, 2, -1
    rows, cosines = bank.nearest(query, k=4)
    np.testing.assert_array_equal(rows[0], [1, 2, 0, 3])
    np.testing.assert_allclose(cosines, [np.array([3, 2, 1, -1]) / np.sqrt(15), np.zeros(4)], rtol=1e-6)


def test_another_width_and_too_many_names_are_refused(bank):
    with pytest.raises(InputError, match=r"512 features .*these vectors 7; embed with CLIP ViT-B/32"):
        bank.nearest(np.ones((2, 7), np.float32))
    with pytest.raises(InputError, match="ask for 1 to 1391 of them, not 1392"):
        bank.nearest(np.ones((2, 512), np.float32), k=1392)


def test_a_damaged_installation_is_said(monkeypatch, tmp_path):
    damaged = tmp_path / "clip_names.safetensors"
    damaged.write_bytes(b"no tensors")
    monkeypatch.setattr("setcore.name_bank.bank.PATH", damaged)
    with pytest.raises(CheckpointError, match="install the package again"):
        load_name_bank.__wrapped__()
