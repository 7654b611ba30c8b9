"""Write the bank of names that setcore ships, from an npz of `names`, `synonyms` (`|` between) and `vectors`.

python tools/make_name_bank.py clip_vit_b32_names.npz
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from safetensors.numpy import save_file

from setcore.name_bank.bank import PATH


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("npz")
    with np.load(parser.parse_args().npz) as source:
        names = source["names"].tolist()
        synonyms = [text.split("|") for text in source["synonyms"].tolist()]
        metadata = {"names": json.dumps(names), "synonyms": json.dumps(synonyms)}
        save_file({"vectors": source["vectors"]}, PATH, metadata)
    print(f"{len(names)} names in {PATH} ({PATH.stat().st_size} bytes)")


if __name__ == "__main__":
    main()
