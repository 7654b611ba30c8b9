"""HDF5 files that loop, crash, claim or point elsewhere are refused before this process reads them."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from synthetic import make_responses, with_grid

import braincl
from braincl.data.hdf5_check import hdf5_fault
from braincl.data.responses import netcdf_bytes
from braincl.errors import ResponseError

SECTOR = 512


def written(path, write) -> None:
    with h5py.File(path, "w") as file:
        write(file)


def group_of_itself(file) -> None:
    group = file.create_group("a")
    group["self"], group["root"], group["b"] = group, file["/"], h5py.SoftLink("/nowhere")


SOUND = {
    "responses": lambda path: braincl.save_responses(with_grid(make_responses()), path),
    "packed": lambda path: path.write_bytes(
        netcdf_bytes(make_responses(), {"response": {"zlib": True, "chunksizes": (9, 4)}})
    ),
    "zeros": lambda path: written(
        path, lambda file: file.create_dataset("x", data=np.zeros((500, 9000), "f4"), compression="gzip")
    ),
    "loops of names": lambda path: written(path, group_of_itself),
    "empty": lambda path: written(path, lambda file: file.create_dataset("x", shape=(0, 5), dtype="f4")),
    "null": lambda path: written(path, lambda file: file.create_dataset("x", data=h5py.Empty("f4"))),
    "a little unwritten": lambda path: written(
        path, lambda file: file.create_dataset("x", (9, 9), "f4", chunks=(3, 3))
    ),
}


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("values", [True, False])
def test_sound_files_pass(name, values, tmp_path):
    SOUND[name](tmp_path / "x.nc")
    assert hdf5_fault(tmp_path / "x.nc", values=values) is None


BAD = {
    "unwritten": (
        lambda file: file.create_dataset("response", shape=(20_000, 25_000), dtype="f4", chunks=(100, 100)),
        "'/response' claims 2,000,000,000 bytes, but 0 are there",
    ),
    "a huge chunk": (
        lambda file: file.create_dataset("x", shape=(3,), maxshape=(None,), dtype="f8", chunks=(1 << 28,)),
        "claims 2,147,483,648 bytes",
    ),
    "a link": (
        lambda file: file.__setitem__("x", h5py.ExternalLink("other.h5", "/a")),
        "link to another file, other.h5",
    ),
    "outside": (
        lambda file: file.create_dataset("x", shape=(10,), dtype="f4", external=[("other.bin", 0, 40)]),
        "'/x' lie in other files",
    ),
    "virtual": (
        lambda file: file.create_virtual_dataset("x", virtual_layout()),
        "'/x' lie in other files",
    ),
}


def virtual_layout() -> h5py.VirtualLayout:
    layout = h5py.VirtualLayout(shape=(4,), dtype="f4")
    layout[:] = h5py.VirtualSource("other.h5", "a", shape=(4,))
    return layout


@pytest.mark.parametrize("name", BAD)
def test_what_claims_too_much_or_lies_elsewhere_is_refused(name, tmp_path):
    write, message = BAD[name]
    written(tmp_path / "x.nc", write)
    with pytest.raises(ResponseError, match=message):
        braincl.open_responses(tmp_path / "x.nc")


def test_a_zeroed_sector_never_hangs(tmp_path):
    """The HDF5 library loops for ever on some of them."""
    whole = netcdf_bytes(make_responses())
    path = tmp_path / "x.nc"
    for start in range(5 * SECTOR, 8 * SECTOR, SECTOR):
        path.write_bytes(whole[:start] + bytes(SECTOR) + whole[start + SECTOR :])
        with pytest.raises(ResponseError, match=r"x\.nc is not a readable NetCDF-4 file"):
            braincl.open_responses(path)
