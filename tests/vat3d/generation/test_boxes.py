"""Boxes as numbers."""

import numpy as np

from vat3d.generation.boxes import BINS, BOXES, THINNEST, box_class, class_box


def test_boxes_come_back_within_half_a_step():
    boxes = np.exp(np.random.default_rng(0).uniform(np.log(THINNEST), 0, (500, 3)))
    boxes[:3] = [[1, 1, 1], [1, THINNEST / 2, 1], [0.3, 0.3, 0.3]]
    boxes /= boxes.max(1, keepdims=True)
    numbers = box_class(boxes)
    assert numbers.min() >= 0
    assert numbers.max() < BOXES
    back = np.stack([class_box(number) for number in numbers.tolist()])
    assert (back.max(1) == 1).all()
    step = -np.log(THINNEST) / (BINS - 1)
    assert np.abs(np.log(back) - np.log(boxes.clip(THINNEST))).max() <= step / 2 + 1e-9
    np.testing.assert_array_equal(box_class(back)[:, None], numbers[:, None])
