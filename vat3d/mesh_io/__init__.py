"""Reading and writing mesh files."""

from vat3d.mesh_io.load import load_mesh as load_mesh
from vat3d.mesh_io.save import save_mesh as save_mesh
