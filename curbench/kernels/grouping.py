"""From the id of every rollout to groups: which rollouts are samples of the same problem."""

from typing import Any

import numpy as np

from curbench.kernels.arrays import is_tensor
from curbench.kernels.contract import Grouping, require
from curbench.kernels.extension import load


def group_by_id(id: Any) -> Grouping:
    """The groups of rollouts with equal ids.

    id       [R] integers, or strings such as uuids: a list, a numpy array (of strings, bytes or Python objects) or an
             integer tensor. Objects are compared by their own hash and equality, as in a dict
    Returns  Grouping, of numpy arrays, or of tensors for a tensor. One pass with a hash table; where equal ids are one
             and the same object, their text is read only once. On CUDA it sorts, and waits for the device
    Raises   ValueError if an id is not of one of these kinds; TypeError if an object has no hash.

    >>> group_by_id(["b", "a", "b"])
    Grouping(offset=array([0, 2, 3]), order=array([0, 2, 1]), first=array([0, 1]))
    """
    if is_tensor(id):
        return of_tensor(id)
    if not isinstance(id, list | tuple):
        id = np.asarray(id)
        require(id.ndim == 1, f"ids must have 1 axis; got shape {id.shape}")
    elif not id or isinstance(id[0], int | np.integer):
        id = np.asarray(id) if id else np.zeros(0, np.int64)
    if isinstance(id, np.ndarray):
        kind = id.dtype.kind
        require(kind in "biuUSTO", f"ids must be integers, strings or objects with a hash; got {id.dtype}")
        if kind == "T":
            id = id.astype(object)
        words = kind in "bi" or (kind == "u" and id.dtype.itemsize < 8)
        id = np.ascontiguousarray(id, np.int64 if words else None)
    first, offset, order = load().identify(id)
    return Grouping(offset, order, first)


def of_tensor(id: Any) -> Grouping:
    import torch

    require(
        id.ndim == 1 and not (id.is_floating_point() or id.is_complex()),
        f"ids in a tensor must be integers on 1 axis; got {id.dtype} of shape {tuple(id.shape)}",
    )
    if id.device.type == "cpu":
        result = group_by_id(id.detach().numpy())
        return Grouping(*(None if field is None else torch.from_numpy(field) for field in result))
    return sorted_by_id(id)


def sorted_by_id(id: Any) -> Grouping:
    """``group_by_id`` by sorting, for a device without our hash table. The order is always there."""
    import torch

    distinct, label, count = torch.unique(id, return_inverse=True, return_counts=True)
    slot = torch.arange(len(id), device=id.device)
    first = torch.full_like(distinct, len(id), dtype=torch.int64).scatter_reduce_(0, label, slot, "amin")
    rank = torch.argsort(first)  # labels by first appearance
    order = torch.argsort(torch.argsort(rank)[label], stable=True)
    offset = torch.zeros(len(distinct) + 1, dtype=torch.int64, device=id.device)
    torch.cumsum(count[rank], 0, out=offset[1:])
    return Grouping(offset, order, first[rank])
