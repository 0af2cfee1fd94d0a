"""The Triton backend: the packed products on an NVIDIA GPU, in fp16, bf16 or fp32, for blocks of 16 to 128.

Forward and input gradient are one program: a tile of tokens times the blocks of one block row (or column), walked in
the index's order, summed in fp32, with bias and GELU on the sums. Programs of one tile of tokens follow each other, so
that x comes from memory once and then from L2. Weight gradient: a program walks a chunk of the tokens for some blocks
of one row, 128 inputs wide in all, which share their tile of dy; it sums that tile for the bias as well, since another
pass over dy would cost about as much as the product. A weight of few blocks has its tokens cut into several chunks,
whose sums a second program adds in order.

Same input, same bits, on every rank: there are no atomics, and neither tiles nor chunks depend on a measurement or on
the GPU; autotuning could give ranks different ones. They come from a table by (block, precision) and from shapes. Long
rows are not started first: hundreds of programs run at once, several times a tile's rows, so that an order within a
tile changes nothing, and one across tiles would read x from memory again and again.

What can be gained. A product moves T·(I + O) elements whatever the pattern is, so that its speed-up over dense is
at most `I·O / (I + O) · 2·bandwidth / (bytes per element · flops)`. An H100 (3.0 TB/s and 650 TFLOP/s reached, bf16)
allows 2.8 for 3072×768 and 3.8 for 4096×1024 at any sparsity, an A100 (1.8 and 250) 4.4 and 5.9; in fp32 without TF32
arithmetic binds first. Small blocks are bound by L2: a product reads x once per block row that uses it, at s = 0.9 and
192 rows 19 times. A tile of x held in shared memory for all rows would end that; Triton cannot index shared memory
(Gluon can, but has no interpreter). Expected at s = 0.9 for 3072×768 in bf16 on an H100: about 1.2 for 16×16, 1.8 for
32×32, 2.3 to 2.7 above. None of this has been measured: `benchmarks/kernels_gpu.py` does it, and prints the limit too.
What is known is the code compiled for sm_80 and sm_90: tensor cores, 16-byte asynchronous copies, no spills
(`tests/kernels/test_triton_compiles.py`).

Shape legend: T tokens, O out features, I in features, S slots, b block side.
"""

from __future__ import annotations

import importlib.util
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dsparse.kernels.index import BlockIndex

NAME = "triton"

_BLOCKS = (16, 32, 64, 128)
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_MIN_CAPABILITY = (8, 0)


class _Tiles(NamedTuple):
    """How a program is cut. The order in which it adds follows from this."""

    tokens: int
    """Tokens of a tile of the products."""
    step: int
    """Inner elements per dot, at most a block's side."""
    unroll: int
    """Dots per round: blocks that are small go several at a time."""
    group: int
    """Blocks of one row that a program of the weight gradient takes."""
    group_tokens: int
    """Tokens per dot of the weight gradient."""
    num_warps: int
    num_stages: int
    """Rounds whose copies are on their way. Rows hold few blocks: another program beside it hides more than a stage."""


# A round copies about 20 KiB, so that several programs share an SM; all fit into the 99 KiB of the smaller GPUs. IEEE
# fp32 has no tensor cores: its tiles are what registers hold without spilling.
_TILES: dict[tuple[str, int], _Tiles] = {
    ("half", 16): _Tiles(tokens=128, step=16, unroll=4, group=8, group_tokens=64, num_warps=4, num_stages=2),
    ("half", 32): _Tiles(tokens=128, step=32, unroll=2, group=4, group_tokens=64, num_warps=4, num_stages=2),
    ("half", 64): _Tiles(tokens=128, step=64, unroll=1, group=2, group_tokens=64, num_warps=4, num_stages=2),
    ("half", 128): _Tiles(tokens=128, step=64, unroll=1, group=1, group_tokens=64, num_warps=8, num_stages=3),
    ("tf32", 16): _Tiles(tokens=128, step=16, unroll=2, group=8, group_tokens=32, num_warps=4, num_stages=2),
    ("tf32", 32): _Tiles(tokens=128, step=32, unroll=1, group=4, group_tokens=32, num_warps=4, num_stages=2),
    ("tf32", 64): _Tiles(tokens=128, step=32, unroll=1, group=1, group_tokens=32, num_warps=4, num_stages=2),
    ("tf32", 128): _Tiles(tokens=128, step=32, unroll=1, group=1, group_tokens=32, num_warps=8, num_stages=3),
    ("ieee", 16): _Tiles(tokens=128, step=16, unroll=2, group=8, group_tokens=16, num_warps=4, num_stages=2),
    ("ieee", 32): _Tiles(tokens=128, step=16, unroll=1, group=4, group_tokens=16, num_warps=4, num_stages=2),
    ("ieee", 64): _Tiles(tokens=128, step=16, unroll=1, group=2, group_tokens=16, num_warps=4, num_stages=2),
    ("ieee", 128): _Tiles(tokens=64, step=16, unroll=1, group=1, group_tokens=16, num_warps=8, num_stages=2),
}
# Chunks of the weight gradient: about as many warps as a large GPU runs at once, in chunks worth their sums' way out.
_WANTED_WARPS = 2048
_MIN_TOKENS_PER_CHUNK = 512
_SUMS_PER_PROGRAM = 1024


def supports(block: int, dtype: torch.dtype) -> bool:
    """Whether there are kernels for this block side and dtype."""
    return block in _BLOCKS and dtype in _DTYPES


def is_available() -> tuple[bool, str]:
    """Whether the backend can run in this process, and why, or why not."""
    if importlib.util.find_spec("triton") is None:
        return False, "triton is not installed"
    try:
        interpreted = _kernels().INTERPRETED
    except ImportError as error:
        return False, f"triton cannot be imported: {error}"
    if interpreted:
        return True, "Triton's interpreter, on a CPU: to test with, not to train with"
    if not torch.cuda.is_available():
        return False, "there is no CUDA device"
    capability = torch.cuda.get_device_capability()
    if torch.version.cuda is None or capability < _MIN_CAPABILITY:
        return False, f"{torch.cuda.get_device_name()} is not an NVIDIA GPU of compute capability 8.0 or higher"
    return True, torch.cuda.get_device_name()


def runs_on(device_type: str) -> bool:
    """Whether it computes on a kind of device: GPUs, and in Triton's interpreter the CPU."""
    if device_type == "cuda":
        return True
    return device_type == "cpu" and is_available()[0] and bool(_kernels().INTERPRETED)


def forward(
    x_TI: Tensor, values_Sbb: Tensor, bias_O: Tensor | None, index: BlockIndex, *, gelu: bool = False
) -> tuple[Tensor, Tensor | None]:
    """y = x Wᵀ + bias, and with `gelu` GELU(y) beside y itself, which the gradient needs.

    Returns:
        ([T, O] outputs, None), or ([T, O] GELU of the outputs, [T, O] outputs) with `gelu`.
    """
    block = _checked_block(values_Sbb, index)
    tokens, (out_features, in_features) = x_TI.shape[0], _features(index, block)
    _check("x", x_TI, (tokens, in_features), like=values_Sbb)
    if bias_O is not None:
        _check("bias", bias_O, (out_features,), like=values_Sbb)
    y_TO = x_TI.new_empty(tokens, out_features)
    preactivation_TO = torch.empty_like(y_TO) if gelu else None
    _launch_product(
        x_TI,
        values_Sbb,
        (index.row_offsets, index.row_slots, index.cols_S),
        y_TO,
        bias_O=bias_O,
        preactivation_TO=preactivation_TO,
        transposed=True,
    )
    return y_TO, preactivation_TO


def input_gradient(dy_TO: Tensor, values_Sbb: Tensor, index: BlockIndex) -> Tensor:
    """dx = dy W, [T, I]."""
    block = _checked_block(values_Sbb, index)
    tokens, (out_features, in_features) = dy_TO.shape[0], _features(index, block)
    _check("dy", dy_TO, (tokens, out_features), like=values_Sbb)
    dx_TI = dy_TO.new_empty(tokens, in_features)
    _launch_product(dy_TO, values_Sbb, (index.col_offsets, index.col_slots, index.rows_S), dx_TI, transposed=False)
    return dx_TI


def weight_gradient(
    dy_TO: Tensor, x_TI: Tensor, index: BlockIndex, block: int, *, with_bias: bool = False
) -> tuple[Tensor, Tensor | None]:
    """dW = dyᵀ x at active blocks, [S, b, b]; with `with_bias` also the bias gradient, dy summed over tokens, [O]."""
    _check_supported(block, dy_TO)
    _check_index(index, dy_TO)
    tokens, (out_features, in_features) = dy_TO.shape[0], _features(index, block)
    _check("dy", dy_TO, (tokens, out_features), like=dy_TO)
    _check("x", x_TI, (tokens, in_features), like=dy_TO)
    num_slots, num_rows = index.rows_S.numel(), index.grid[0]
    values_Sbb = dy_TO.new_empty(num_slots, block, block)
    bias_O = dy_TO.new_empty(out_features) if with_bias else None
    num_values = values_Sbb.numel()
    num_sums = num_values + (out_features if with_bias else 0)
    if tokens == 0 or num_sums == 0:
        return values_Sbb.zero_(), None if bias_O is None else bias_O.zero_()
    chunks = _Chunks.of(tokens, num_slots, num_rows, _TILES[_precision(dy_TO.dtype)[0], block])
    if chunks.num == 1:
        _launch_weight_gradient(dy_TO, x_TI, index, values_Sbb, bias_O, chunks=chunks)
        return values_Sbb, bias_O
    # One row per chunk, of values and then bias, so that one program adds both up.
    partials = torch.empty(chunks.num, num_sums, dtype=torch.float32, device=dy_TO.device)
    bias_partials = partials[:, num_values:] if with_bias else None
    _launch_weight_gradient(dy_TO, x_TI, index, partials, bias_partials, chunks=chunks)
    with torch.cuda.device_of(dy_TO):
        _kernels().sum_chunks[(_ceil_div(num_sums, _SUMS_PER_PROGRAM),)](
            partials_ptr=partials,
            values_ptr=values_Sbb,
            bias_ptr=values_Sbb if bias_O is None else bias_O,
            num_values=num_values,
            num_sums=num_sums,
            num_chunks=chunks.num,
            SIZE=_SUMS_PER_PROGRAM,
        )
    return values_Sbb, bias_O


def _launch_product(
    x_TI: Tensor,
    values_Sbb: Tensor,
    order: tuple[Tensor, Tensor, Tensor],
    y_TO: Tensor,
    *,
    bias_O: Tensor | None = None,
    preactivation_TO: Tensor | None = None,
    transposed: bool,
) -> None:
    """Fills y with x times the blocks of an order: (offsets by target, slots, source of each slot)."""
    if y_TO.numel() == 0:
        return
    block = values_Sbb.shape[1]
    kind, precision = _precision(x_TI.dtype)
    tiles = _TILES[kind, block]
    tokens, num_targets = x_TI.shape[0], order[0].numel() - 1
    with torch.cuda.device_of(x_TI):
        _kernels().gathered_product[(_ceil_div(tokens, tiles.tokens) * num_targets,)](
            x_ptr=x_TI,
            values_ptr=values_Sbb,
            bias_ptr=y_TO if bias_O is None else bias_O,
            y_ptr=y_TO,
            preactivation_ptr=y_TO if preactivation_TO is None else preactivation_TO,
            offsets_ptr=order[0],
            slots_ptr=order[1],
            sources_ptr=order[2],
            num_tokens=tokens,
            num_targets=num_targets,
            x_width=x_TI.shape[1],
            y_width=y_TO.shape[1],
            BLOCK=block,
            TOKENS=tiles.tokens,
            STEP=tiles.step,
            UNROLL=tiles.unroll,
            TRANSPOSED=transposed,
            HAS_BIAS=bias_O is not None,
            GELU=preactivation_TO is not None,
            PRECISION=precision,
            num_warps=tiles.num_warps,
            num_stages=tiles.num_stages,
        )


class _Chunks(NamedTuple):
    """How the weight gradient's tokens are cut."""

    num: int
    tokens: int
    """Of each but the last, whole tiles."""

    @classmethod
    def of(cls, num_tokens: int, num_slots: int, num_rows: int, tiles: _Tiles) -> _Chunks:
        """Enough chunks to fill a GPU: a function of shapes, never of the GPU that happens to be there."""
        groups = max(1, min(num_slots, num_slots // tiles.group + num_rows))
        wanted = _ceil_div(_WANTED_WARPS // tiles.num_warps, groups)
        at_most = max(1, num_tokens // _MIN_TOKENS_PER_CHUNK)
        tokens = _ceil_div(_ceil_div(num_tokens, min(wanted, at_most)), tiles.group_tokens) * tiles.group_tokens
        return cls(num=_ceil_div(num_tokens, tokens), tokens=tokens)


def _launch_weight_gradient(
    dy_TO: Tensor, x_TI: Tensor, index: BlockIndex, values: Tensor, bias: Tensor | None, *, chunks: _Chunks
) -> None:
    """Fills values and bias, or where there are several chunks each one's row of both."""
    num_slots, (num_rows, _) = index.rows_S.numel(), index.grid
    block = dy_TO.shape[1] // num_rows
    kind, precision = _precision(dy_TO.dtype)
    tiles = _TILES[kind, block]
    num_groups = num_slots // tiles.group + num_rows
    with torch.cuda.device_of(dy_TO):
        _kernels().weight_gradient[(num_groups * chunks.num,)](
            dy_ptr=dy_TO,
            x_ptr=x_TI,
            values_ptr=values,
            bias_ptr=values if bias is None else bias,
            offsets_ptr=index.row_offsets,
            slots_ptr=index.row_slots,
            cols_ptr=index.cols_S,
            num_tokens=dy_TO.shape[0],
            num_rows=num_rows,
            num_groups=num_groups,
            tokens_per_chunk=chunks.tokens,
            dy_width=dy_TO.shape[1],
            x_width=x_TI.shape[1],
            chunk_stride=values.stride(0) if chunks.num > 1 else 0,
            BLOCK=block,
            GROUP=tiles.group,
            TOKENS=tiles.group_tokens,
            ROWS=1 << (num_rows - 1).bit_length(),
            WITH_BIAS=bias is not None,
            PRECISION=precision,
            num_warps=tiles.num_warps,
            num_stages=tiles.num_stages,
        )


def _kernels() -> Any:
    """The Triton programs. Imported at first use: the package is whole without triton."""
    from dsparse.kernels import triton_kernels

    return triton_kernels


def _precision(dtype: torch.dtype) -> tuple[str, str]:
    """(row of the table, `input_precision` of a dot). For fp32 torch's own switch, however it was set, decides."""
    if dtype != torch.float32:
        return "half", "ieee"
    precision = "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"
    return precision, precision


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _features(index: BlockIndex, block: int) -> tuple[int, int]:
    """(O, I)."""
    num_rows, num_cols = index.grid
    return num_rows * block, num_cols * block


def _checked_block(values_Sbb: Tensor, index: BlockIndex) -> int:
    """The block side, of values and an index that fit each other and these kernels."""
    block = values_Sbb.shape[-1] if values_Sbb.dim() == 3 else 0
    _check_supported(block, values_Sbb)
    _check_index(index, values_Sbb)
    _check("values", values_Sbb, (index.rows_S.numel(), block, block), like=values_Sbb)
    return block


def _check_supported(block: int, tensor: Tensor) -> None:
    if not supports(block, tensor.dtype):
        raise ValueError(
            f"Expected blocks of side {', '.join(map(str, _BLOCKS))} in fp16, bf16 or fp32. "
            f"Got side {block} in {tensor.dtype}, tensor of shape {list(tensor.shape)}."
        )
    if not tensor.is_cuda and not _kernels().INTERPRETED:
        raise ValueError(f"Expected tensors on a CUDA device. Got {tensor.device}.")


def _check_index(index: BlockIndex, like: Tensor) -> None:
    """Shapes, dtypes and devices; whether the entries lie in the grid is the pattern's promise."""
    num_slots, (num_rows, num_cols) = index.rows_S.numel(), index.grid
    sizes = (num_slots, num_slots, num_rows + 1, num_slots, num_cols + 1, num_slots)
    for name, entries, size in zip(BlockIndex._fields, index, sizes, strict=True):
        _check(f"index.{name}", entries, (size,), like=like, dtype=torch.int32)


def _check(
    name: str, tensor: Tensor, shape: tuple[int, ...], *, like: Tensor, dtype: torch.dtype | None = None
) -> None:
    """Raises unless a tensor is contiguous, of this shape, and of `like`'s device and dtype (or of `dtype`)."""
    dtype = dtype or like.dtype
    if tensor.shape == shape and tensor.dtype == dtype and tensor.device == like.device and tensor.is_contiguous():
        return
    got = "contiguous" if tensor.is_contiguous() else "not contiguous"
    raise ValueError(
        f"Expected {name} of shape {list(shape)}, {dtype}, on {like.device}, contiguous. "
        f"Got {list(tensor.shape)}, {tensor.dtype}, on {tensor.device}, {got}."
    )
