"""The CPU backend: products with a block-sparse weight in C++, for float32 and bfloat16 and any block side.

The sources are in csrc/, cpu_build.py compiles them, and they are called through ctypes: a struct of addresses and
sizes (csrc/abi.h). Sums are in float32 and rounded once. The same inputs give the same bits, whatever the number of
threads, which is torch's (`torch.get_num_threads()`).

The instruction set is the best that the machine has; DSPARSE_CPU_ISA (portable, avx2, avx512) chooses another.

Shape legend: T tokens, O out features, I in features, S slots, b block side.
"""

from __future__ import annotations

import ctypes
import functools
import os

import torch
from torch import Tensor

from dsparse.kernels.cpu_build import AVX512_LOWERED, SHIPPED_ISAS, BuildError, library_path
from dsparse.kernels.index import BlockIndex

NAME = "cpu"
ISA_VARIABLE = "DSPARSE_CPU_ISA"
MAX_BLOCK = 256
"""Elements per block side; `kLargestBlock` of csrc/abi.h."""

_DTYPES = {torch.float32: 0, torch.bfloat16: 1}
_OK, _OUT_OF_MEMORY, _BAD_INDEX, _UNSUPPORTED = 0, 1, 2, 4
_POINTERS = ("x", "dy", "values", "bias", "y", "pre", "dx", "dvalues", "dbias", *BlockIndex._fields)
_SIZES = ("num_tokens", "num_out", "num_in", "num_slots")
_INTS = ("block", "dtype", "num_threads", "isa")


class _Call(ctypes.Structure):
    """`dsparse::Call` of csrc/abi.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _SIZES),
        *((name, ctypes.c_int32) for name in _INTS),
    ]


class _Library:
    """The compiled kernels, set to one instruction set."""

    def __init__(self, library: ctypes.CDLL, isa: int, isa_name: str) -> None:
        self.isa, self.isa_name = isa, isa_name
        self.forward = library.dsparse_forward
        self.input_gradient = library.dsparse_input_gradient
        self.weight_gradient = library.dsparse_weight_gradient


def is_available() -> tuple[bool, str]:
    """Whether the kernels are there, compiling them if need be, and the instruction set or the reason why not.

    Raises:
        ValueError: DSPARSE_CPU_ISA names an instruction set that there is not.
    """
    try:
        return True, _loaded().isa_name
    except BuildError as error:
        return False, str(error)


def runs_on(device_type: str) -> bool:
    """Whether it computes on a kind of device."""
    return device_type == "cpu"


def supports(block: int, dtype: torch.dtype) -> bool:
    """Whether this backend computes with blocks of this side and elements of this dtype."""
    return 1 <= block <= MAX_BLOCK and dtype in _DTYPES


def forward(
    x_TI: Tensor, values_Sbb: Tensor, bias_O: Tensor | None, index: BlockIndex, *, gelu: bool = False
) -> tuple[Tensor, Tensor | None]:
    """y = x Wᵀ + bias, and with `gelu` GELU(y) beside y itself, which the gradient needs.

    Returns:
        ([T, O] outputs, None), or ([T, O] GELU of the outputs, [T, O] outputs) with `gelu`.

    Raises:
        ValueError: a tensor is not on the CPU, of another dtype than the others, or of the wrong shape.
    """
    block = _block_of(values_Sbb)
    num_out, num_in = (side * block for side in index.grid)
    x_TI, values_Sbb = _checked("x", x_TI, (None, num_in), x_TI.dtype), _checked_values(values_Sbb, index, x_TI.dtype)
    if bias_O is not None:
        bias_O = _checked("bias", bias_O, (num_out,), x_TI.dtype)
    y_TO = x_TI.new_empty(x_TI.shape[0], num_out)
    pre_TO = torch.empty_like(y_TO) if gelu else None
    library = _loaded()
    call = _call(library, index, block, x_TI)
    call.x, call.values, call.y = x_TI.data_ptr(), values_Sbb.data_ptr(), y_TO.data_ptr()
    call.bias = None if bias_O is None else bias_O.data_ptr()
    call.pre = None if pre_TO is None else pre_TO.data_ptr()
    _run(library.forward, call)
    return y_TO, pre_TO


def input_gradient(dy_TO: Tensor, values_Sbb: Tensor, index: BlockIndex) -> Tensor:
    """dx = dy W, [T, I].

    Raises:
        ValueError: a tensor is not on the CPU, of another dtype than the others, or of the wrong shape.
    """
    block = _block_of(values_Sbb)
    num_out, num_in = (side * block for side in index.grid)
    dy_TO = _checked("dy", dy_TO, (None, num_out), dy_TO.dtype)
    values_Sbb = _checked_values(values_Sbb, index, dy_TO.dtype)
    dx_TI = dy_TO.new_empty(dy_TO.shape[0], num_in)
    library = _loaded()
    call = _call(library, index, block, dy_TO)
    call.dy, call.values, call.dx = dy_TO.data_ptr(), values_Sbb.data_ptr(), dx_TI.data_ptr()
    _run(library.input_gradient, call)
    return dx_TI


def weight_gradient(
    dy_TO: Tensor, x_TI: Tensor, index: BlockIndex, block: int, *, with_bias: bool = False
) -> tuple[Tensor, Tensor | None]:
    """dW = dyᵀ x at active blocks, [S, b, b]; with `with_bias` also the bias gradient, dy summed over tokens, [O].

    Raises:
        ValueError: a tensor is not on the CPU, of another dtype than the others, or of the wrong shape.
    """
    if block < 1:
        raise ValueError(f"Expected a block side of at least 1. Got {block}.")
    num_out, num_in = (side * block for side in index.grid)
    dy_TO = _checked("dy", dy_TO, (None, num_out), dy_TO.dtype)
    x_TI = _checked("x", x_TI, (dy_TO.shape[0], num_in), dy_TO.dtype)
    dvalues_Sbb = dy_TO.new_empty(index.rows_S.numel(), block, block)
    dbias_O = dy_TO.new_empty(num_out) if with_bias else None
    library = _loaded()
    call = _call(library, index, block, dy_TO)
    call.dy, call.x, call.dvalues = dy_TO.data_ptr(), x_TI.data_ptr(), dvalues_Sbb.data_ptr()
    call.dbias = None if dbias_O is None else dbias_O.data_ptr()
    _run(library.weight_gradient, call)
    return dvalues_Sbb, dbias_O


@functools.cache
def _loaded() -> _Library:
    """The library at the machine's best instruction set, or at the one of DSPARSE_CPU_ISA."""
    return _load(os.environ.get(ISA_VARIABLE) or None)


@functools.cache
def _load(wanted: str | None) -> _Library:
    """The library at one instruction set, or at the machine's best for None."""
    isas = (AVX512_LOWERED,) if wanted == AVX512_LOWERED.name else SHIPPED_ISAS
    # torch is imported, so its OpenMP is there for the library's symbols.
    path = library_path(isas)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"{path} does not load: {error}") from error
    library.dsparse_isa_name.restype = ctypes.c_char_p
    for kernel in (library.dsparse_forward, library.dsparse_input_gradient, library.dsparse_weight_gradient):
        kernel.argtypes = [ctypes.POINTER(_Call)]
    names = [library.dsparse_isa_name(isa).decode() for isa in range(len(isas))]
    runnable = {name: isa for isa, name in enumerate(names) if library.dsparse_isa_runs_here(isa)}
    name = wanted or next(iter(runnable))
    if name not in runnable:
        raise ValueError(
            f"Expected {ISA_VARIABLE} to be one that this machine runs: {', '.join(runnable)}. Got {name}."
        )
    return _Library(library, runnable[name], name)


def _call(library: _Library, index: BlockIndex, block: int, tokens: Tensor) -> _Call:
    """A call that has all but its matrices' addresses. The index's tensors must outlive it, as the caller's do."""
    num_rows, num_cols = index.grid
    call = _Call(num_tokens=tokens.shape[0], num_out=num_rows * block, num_in=num_cols * block)
    call.num_slots, call.block, call.dtype = index.rows_S.numel(), block, _DTYPES[tokens.dtype]
    call.num_threads, call.isa = torch.get_num_threads(), library.isa
    for name, tensor in zip(BlockIndex._fields, index, strict=True):
        if tensor.dtype != torch.int32 or tensor.device.type != "cpu" or not tensor.is_contiguous():
            raise ValueError(
                f"Expected the index's {name} to be int32, contiguous and on the CPU. "
                f"Got {_describe(tensor)}{'' if tensor.is_contiguous() else ', not contiguous'}."
            )
        if tensor.numel() != call.num_slots and not name.endswith("_offsets"):
            raise ValueError(f"Expected the index's {name} to be of {call.num_slots} slots. Got {tensor.numel()}.")
        setattr(call, name, tensor.data_ptr())
    return call


def _run(kernel: ctypes._NamedFuncPointer, call: _Call) -> None:
    status = kernel(ctypes.byref(call))
    if status == _OK:
        return
    if status == _OUT_OF_MEMORY:
        raise MemoryError("Expected memory for the kernels' scratch buffers. Got none from the system.")
    if status == _BAD_INDEX:
        raise ValueError(
            f"Expected an index of {call.num_slots} blocks in a grid of {call.num_out // call.block} x "
            f"{call.num_in // call.block}. Got slots, rows, columns or offsets that do not belong to it."
        )
    if status == _UNSUPPORTED:
        raise ValueError(f"Expected blocks of 1 to {MAX_BLOCK} a side for the CPU kernels. Got {call.block}.")
    raise RuntimeError(f"The CPU kernels returned status {status}.")


def _block_of(values_Sbb: Tensor) -> int:
    if values_Sbb.dim() != 3 or values_Sbb.shape[1] != values_Sbb.shape[2] or values_Sbb.shape[1] < 1:
        raise ValueError(f"Expected values of shape [slots, block, block]. Got {list(values_Sbb.shape)}.")
    return values_Sbb.shape[1]


def _checked_values(values_Sbb: Tensor, index: BlockIndex, dtype: torch.dtype) -> Tensor:
    block = values_Sbb.shape[1]
    return _checked("values", values_Sbb, (index.rows_S.numel(), block, block), dtype)


def _checked(name: str, tensor: Tensor, shape: tuple[int | None, ...], dtype: torch.dtype) -> Tensor:
    """The tensor, contiguous, if it has this dtype and shape (None: any size)."""
    fits = len(shape) == tensor.dim() and all(
        want is None or want == size for want, size in zip(shape, tensor.shape, strict=True)
    )
    if not fits or tensor.dtype != dtype or dtype not in _DTYPES or tensor.device.type != "cpu":
        sizes = ["any" if want is None else want for want in shape]
        kind = dtype if dtype in _DTYPES else "float32 or bfloat16"
        raise ValueError(
            f"Expected {name} of shape [{', '.join(map(str, sizes))}], {kind} on the CPU. Got {_describe(tensor)}."
        )
    return tensor.contiguous()


def _describe(tensor: Tensor) -> str:
    return f"{list(tensor.shape)}, {tensor.dtype} on {tensor.device}"
