"""Areas, normals, volumes, edges and components of triangle arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def face_components(faces: NDArray[np.int64], n_vertices: int) -> NDArray[np.int64]:
    """Connected component of each face (faces that share a vertex are connected), numbered by first appearance.

    Parameters
    ----------
    faces : int array of shape (n_faces, 3)
    n_vertices : int

    Returns
    -------
    int array of shape (n_faces,)
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    start, stop = faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel()
    graph = coo_matrix((np.ones(len(start), bool), (start, stop)), shape=(n_vertices, n_vertices))
    label = connected_components(graph, directed=False)[1][faces[:, 0]]
    _, first, inverse = np.unique(label, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def face_areas_normals(
    vertices: NDArray[np.float64], faces: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Areas and unit normals; the normal of a face without area is zero.

    Parameters
    ----------
    vertices : array of shape (n, 3)
    faces : int array of shape (n_faces, 3)

    Returns
    -------
    areas : array of shape (n_faces,)
    normals : array of shape (n_faces, 3)
    """
    corner = vertices[faces]
    cross = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    length = np.linalg.norm(cross, axis=1)
    return length / 2, cross / np.maximum(length, np.finfo(np.float64).tiny)[:, None]


def signed_volumes(
    vertices: NDArray[np.float64], faces: NDArray[np.int64], label: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Signed volume under the faces of each label; a closed, outward part has a positive one.

    Parameters
    ----------
    vertices : array of shape (n, 3)
    faces : int array of shape (n_faces, 3)
    label : int array of shape (n_faces,)

    Returns
    -------
    array of shape (n_labels,)
    """
    corner = vertices[faces]
    volume = np.einsum("ij,ij->i", corner[:, 0], np.cross(corner[:, 1], corner[:, 2])) / 6
    return np.bincount(label, volume).astype(np.float64)


def edge_table(faces: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Undirected edges and their half-edges, face by face.

    Parameters
    ----------
    faces : int array of shape (n_faces, 3)

    Returns
    -------
    edges : int array of shape (n_edges, 2)
    edge : int array of shape (3 n_faces,)
        Of each half-edge.
    direction : int array of shape (3 n_faces,)
        1 or -1.
    """
    half = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    direction = np.where(half[:, 0] < half[:, 1], 1, -1)
    low, high = half.min(1), half.max(1)
    code, edge = np.unique(low * (int(high.max()) + 1) + high, return_inverse=True)
    return np.stack(np.divmod(code, int(high.max()) + 1), 1), edge.reshape(-1), direction
