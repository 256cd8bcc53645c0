"""Arrays in and out: numpy, torch, or whatever exports DLPack, by pointer and without a copy of what is large.

Exports from the CPU become numpy arrays, as do the results; exports from a GPU become tensors. torch is imported only
for those: whoever passes a tensor has done so.
"""

import contextlib
import functools
import importlib
import sys
from typing import Any

import numpy as np

from curbench.kernels.contract import NO_FAULT, Grouping, group_size, require
from curbench.kernels.extension import cuda_status, load

BACKENDS = ("auto", "reference", "cpu", "cuda")

# What each dtype of a vector may be converted from. Matrices are never converted.
WIDENS = {
    "float64": ("float64", "float32", "float16", "bfloat16"),
    "float32": ("float32", "float64", "float16", "bfloat16"),  # rounded to nearest
    "int64": ("int64", "int32", "int16", "int8", "uint32", "uint16", "uint8"),
    "uint8": ("uint8", "bool"),
}

# Looking a name up is ten times faster than str(dtype).
DTYPE_NAMES = {np.dtype(name): name for names in WIDENS.values() for name in names if name != "bfloat16"}
DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}


@functools.cache
def _few(n: int, value: float, dtype: str) -> Any:
    return np.full(n, value, dtype)


class Numpy:
    """Where numpy arrays, and what numpy makes arrays of, live."""

    name = "numpy on the CPU"
    on_cuda = False

    def owns(self, value: Any) -> bool:
        return place_of(value) is self

    def cast(self, name: str, value: Any) -> Any:
        if isinstance(value, np.ndarray) or not exports(value):
            return np.asarray(value)
        try:
            return np.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise TypeError(f"numpy cannot take {name} by DLPack ({error}): pass an array or a tensor") from error

    def dtype(self, array: Any) -> str:
        return DTYPE_NAMES.get(array.dtype) or str(array.dtype)

    def aligned(self, array: Any) -> bool:  # not so: fields of packed records, whose strides are no whole entries
        return array.flags.aligned

    def strides(self, array: Any) -> tuple[int, ...]:
        return tuple(s // array.itemsize for s in array.strides)

    def contiguous(self, array: Any, dtype: str) -> Any:
        if self.dtype(array) == dtype and array.flags.c_contiguous and array.flags.aligned:
            return array  # a quarter of the time of what follows
        with np.errstate(over="ignore"):  # float64 that float32 cannot hold becomes inf, for the kernel to see
            result = np.ascontiguousarray(array, dtype)
        return result if result.flags.aligned else result.copy()

    def nearest_bfloat16(self, array: Any) -> Any:
        """The entries, of float32, rounded to what bfloat16 holds; ties to even."""
        bits = array.view(np.uint32)
        rounded = ((bits + (0x7FFF + (bits >> 16 & 1))) & 0xFFFF0000).astype(np.uint32).view(np.float32)
        return np.where(np.isfinite(array), rounded, array)

    def empty(self, n: int, dtype: str) -> Any:
        return np.empty(n, DTYPES[dtype])

    def full(self, n: int, value: float, dtype: str) -> Any:
        if n <= 8:
            return _few(n, value, dtype).copy()  # a third of the time of what follows
        result = np.empty(n, dtype)
        result.fill(value)
        return result

    def address(self, array: Any) -> Any:
        return array

    def pointer(self, array: Any) -> int:
        return array.ctypes.data

    def joined(self, vectors: list[Any]) -> Any:
        return np.concatenate(vectors)

    def to_numpy(self, value: Any) -> Any:
        return value

    def from_numpy(self, array: Any) -> Any:
        return array

    def where(self, threads: int) -> Any:
        return load().Where(-1, threads, 0)

    def guard(self) -> Any:
        return contextlib.nullcontext()

    def wants_gradient(self, *values: Any) -> bool:
        return False


class Torch:
    """Where tensors of one device live; CUDA work goes to that device's current stream."""

    def __init__(self, device: Any):
        self.torch = importlib.import_module("torch")
        self.device = device
        self.name = f"torch on {device}"
        self.on_cuda = device.type == "cuda"
        require(device.type in ("cpu", "cuda"), f"tensors must be on a CPU or CUDA device; got {device}")

    def owns(self, value: Any) -> bool:
        if is_tensor(value):
            return value.device == self.device
        return self.on_cuda and exports(value) and place_of(value).name == self.name

    def cast(self, name: str, value: Any) -> Any:
        tensor = value if is_tensor(value) else self.torch.from_dlpack(value)
        if tensor.layout is not self.torch.strided:
            raise ValueError(f"{name} must be a dense tensor; got layout {tensor.layout}: pass its to_dense()")
        return tensor

    def dtype(self, array: Any) -> str:
        return str(array.dtype)[6:]  # without "torch."

    def aligned(self, array: Any) -> bool:
        return True

    def strides(self, array: Any) -> tuple[int, ...]:
        return array.stride()

    def contiguous(self, array: Any, dtype: str) -> Any:
        dtype = getattr(self.torch, dtype)
        if array.dtype == dtype and not array.requires_grad and array.is_contiguous():
            return array  # a tenth of the time of what follows
        return array.detach().to(dtype).contiguous()

    def nearest_bfloat16(self, array: Any) -> Any:
        return array.bfloat16().float()

    def empty(self, n: int, dtype: str) -> Any:
        if not self.on_cuda:
            return self.torch.from_numpy(_NUMPY.empty(n, dtype))  # half the time of torch.empty
        return self.torch.empty(n, dtype=getattr(self.torch, dtype), device=self.device)

    def full(self, n: int, value: float, dtype: str) -> Any:
        if not self.on_cuda:
            return self.torch.from_numpy(_NUMPY.full(n, value, dtype))
        return self.empty(n, dtype).fill_(value)

    def address(self, array: Any) -> Any:
        return None if array is None else array.data_ptr()

    def pointer(self, array: Any) -> int:
        return array.data_ptr()

    def joined(self, vectors: list[Any]) -> Any:
        return self.torch.cat(vectors)

    def to_numpy(self, value: Any) -> Any:
        if not is_tensor(value):
            return value
        half = value.dtype == self.torch.bfloat16  # which numpy does not have
        return (value.detach().float() if half else value.detach()).cpu().numpy()

    def from_numpy(self, array: Any) -> Any:
        return self.torch.as_tensor(array, device=self.device) if isinstance(array, np.ndarray) else array

    def where(self, threads: int) -> Any:
        if not self.on_cuda:
            return load().Where(-1, threads, 0)
        return load().Where(self.device.index, threads, self.torch.cuda.current_stream(self.device).cuda_stream)

    def guard(self) -> Any:
        return self.torch.cuda.device(self.device) if self.on_cuda else contextlib.nullcontext()

    def wants_gradient(self, *values: Any) -> bool:
        return self.torch.is_grad_enabled() and any(is_tensor(value) and value.requires_grad for value in values)


Place = Numpy | Torch
_NUMPY = Numpy()


DLPACK_DEVICES = {1: "cpu", 2: "cuda", 3: "cpu", 13: "cuda"}  # host memory is pinned in 3, all is managed in 13


def is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def exports(value: Any) -> bool:
    return hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__")


@functools.cache
def torch_place(device: Any) -> Torch:
    return Torch(device)


def place_of(value: Any) -> Place:
    if isinstance(value, np.ndarray):
        return _NUMPY
    if is_tensor(value):
        return torch_place(value.device)
    if not exports(value):
        return _NUMPY
    kind, index = value.__dlpack_device__()
    device = DLPACK_DEVICES.get(int(kind))
    require(device is not None, f"arrays must be on a CPU or CUDA device; got one on DLPack device {int(kind)}")
    return _NUMPY if device == "cpu" else torch_place(importlib.import_module("torch").device("cuda", int(index)))


def runs_reference(backend: str, place: Place, threads: int) -> bool:
    """True for "reference". Raises if the back-end is absent (RuntimeError) or does not take arrays from there.

    The arrays of a call are then checked and converted alike for every back-end.
    """
    require(backend in BACKENDS, f"backend must be one of {', '.join(BACKENDS)}; got {backend!r}")
    require(threads >= 1, f"threads must be at least 1; got {threads!r}")
    if backend == "reference":
        return True
    load()
    if backend == "cuda" or place.on_cuda:
        count, reason = cuda_status()
        if count == 0:
            raise RuntimeError(f"backend 'cuda' is not available: {reason}")
    taken = "cuda" if place.on_cuda else "cpu"
    require(backend in ("auto", taken), f"backend {backend!r} does not take {place.name}; pass {taken!r}")
    return False


def through_numpy(place: Place, op: Any, *args: Any, **options: Any) -> Any:
    """``op`` on numpy copies of the arguments, its arrays brought back to ``place``."""
    result = op(*(place.to_numpy(a) for a in args), **{name: place.to_numpy(value) for name, value in options.items()})
    if not isinstance(result, tuple):
        return place.from_numpy(result)
    return type(result)(*(place.from_numpy(field) for field in result))


def owned(place: Place, name: str, value: Any, ndim: int) -> Any:
    if not place.owns(value):
        other = place_of(value)
        raise ValueError(f"{name} must live where the first argument does, {place.name}; it is {other.name}")
    array = place.cast(name, value)
    if array.ndim != ndim:  # not by ``require``: writing the sentence costs a microsecond
        raise ValueError(f"{name} must have {ndim} axis or axes; got shape {tuple(array.shape)}")
    return array


def vector(place: Place, name: str, value: Any, dtype: str, length: int | None = None) -> Any:
    """``value`` as a contiguous vector of ``dtype``; a copy only if it is not one already. Empty ones fit any dtype."""
    array = owned(place, name, value, 1)
    allowed = WIDENS[dtype]
    got = place.dtype(array)
    require(got in allowed or len(array) == 0, f"{name} must have one of the dtypes {', '.join(allowed)}; got {got}")
    require(length is None or len(array) == length, f"{name} must have {length} entries; got {len(array)}")
    if got == "bool":  # already bytes of 0 and 1
        dtype = got
    return place.contiguous(array, dtype)


def small_matrix(place: Place, name: str, value: Any, dtype: str, columns: int) -> Any:
    """``value`` as a matrix of ``dtype`` with so many columns, by copy where it is not one."""
    array = owned(place, name, value, 2)
    got = place.dtype(array)
    require(got in WIDENS[dtype], f"{name} must have one of the dtypes {', '.join(WIDENS[dtype])}; got {got}")
    require(array.shape[1] == columns, f"{name} must have {columns} columns; got {array.shape[1]}")
    return place.contiguous(array, dtype)


def one_of(names: tuple[str, ...]) -> str:
    """
    >>> one_of(("a", "b", "c"))
    'a, b or c'
    """
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


def matrix(
    place: Place, name: str, value: Any, dtypes: tuple[str, ...], shape: tuple[int, int] | None = None
) -> tuple[Any, int]:
    """(``value`` untouched, entries from one row to the next). Rows must be contiguous, but need not touch."""
    array = owned(place, name, value, 2)
    got = place.dtype(array)
    require(got in dtypes, f"{name} must be {one_of(dtypes)}; got {got}")
    require(shape is None or tuple(array.shape) == shape, f"{name} must have shape {shape}; got {tuple(array.shape)}")
    if 0 in array.shape:  # then strides mean nothing
        return array, 0
    require(place.aligned(array), f"{name} must have aligned rows, not packed records: copy it once, where it is made")
    row, column = place.strides(array)
    require(
        (column == 1 or array.shape[1] <= 1) and row >= 0,
        f"{name} must have contiguous rows; got strides {(row, column)}: copy it once, where it is made",
    )
    return array, row


def packed(place: Place, name: str, value: Any, dtypes: tuple[str, ...], length: int | None = None) -> Any:
    """``value`` untouched, a vector without gaps."""
    array = owned(place, name, value, 1)
    got = place.dtype(array)
    require(got in dtypes, f"{name} must be {one_of(dtypes)}; got {got}")
    require(length is None or len(array) == length, f"{name} must have {length} entries; got {len(array)}")
    whole = len(array) <= 1 or (place.aligned(array) and place.strides(array) == (1,))
    require(whole, f"{name} must be contiguous: copy it once, where it is made")
    return array


def groups(place: Place, group: Any, slots: int) -> tuple[Any, Any, int, int]:
    """(offsets or None, order or None, group size or 0, number of groups). Whether offsets rise is for the kernel to
    see. Numpy arrays in a ``Grouping`` are brought to ``place``, since strings have no other home."""
    if isinstance(group, int | np.integer):
        size = group_size(group, slots)
        return None, None, size, slots // size
    order = None
    if isinstance(group, Grouping):
        group, order = place.from_numpy(group.offset), place.from_numpy(group.order)
        order = None if order is None else vector(place, "the order of a Grouping", order, "int64", slots)
    offset = vector(place, "group", group, "int64")
    require(len(offset) >= 1, "group offsets must have B + 1 entries, the first of them 0")
    require(len(offset) > 1 or slots == 0, f"group offsets must end at the {slots} rollouts; they hold no group")
    return offset, order, 0, len(offset) - 1


def given(place: Place, offset: Any, order: Any, size: int) -> Any:
    """What ``groups`` took apart, for the reference."""
    if offset is None:
        return size
    return Grouping(place.to_numpy(offset), None if order is None else place.to_numpy(order), None)


def no_fault(place: Place, n: int) -> Any:
    return place.full(n, NO_FAULT, "int64")
