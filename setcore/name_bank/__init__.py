"""Object names with their CLIP text vectors, embedded: words to ask voxels and meshes about, without a download."""

from setcore.name_bank.bank import BACKBONE, NameBank, load_name_bank

__all__ = ["BACKBONE", "NameBank", "load_name_bank"]
