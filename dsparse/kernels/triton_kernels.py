"""The Triton programs behind `triton_backend`, which launches them and says how they are laid out and why.

This module needs triton to be installed; import `triton_backend` instead, which does not. TRITON_INTERPRET is read when
triton is imported, so set it before.

Offsets inside a tile are int32; where tiles, slots and chunks begin is int64, for T·O may exceed 2**31.

Shape legend: T tokens of a tile, K its part of the inner dimension, N outputs of a block, M inputs of a group of
blocks, R block rows (padded to a power of two), E elements of a tile of sums.
"""

from __future__ import annotations

import triton
import triton.language as tl

INTERPRETED: bool = triton.knobs.runtime.interpret
"""Whether these programs run in Triton's interpreter, on a CPU."""

_INTERPRETED = tl.constexpr(INTERPRETED)
_SQRT_HALF = tl.constexpr(0.7071067811865476)


# Neither the count of tokens nor that of blocks may make another program: batches are ragged, patterns change.
@triton.jit(do_not_specialize=["num_tokens", "num_targets"])
def gathered_product(
    x_ptr: tl.tensor,
    values_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    y_ptr: tl.tensor,
    preactivation_ptr: tl.tensor,
    offsets_ptr: tl.tensor,
    slots_ptr: tl.tensor,
    sources_ptr: tl.tensor,
    num_tokens: tl.tensor,
    num_targets: tl.tensor,
    x_width: tl.tensor,
    y_width: tl.tensor,
    BLOCK: tl.constexpr,
    TOKENS: tl.constexpr,
    STEP: tl.constexpr,
    UNROLL: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    GELU: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """A tile of tokens times the blocks of one target: a block row of the output, or a block column of the input.

    The blocks are used TRANSPOSED for the output, and as stored for the input's gradient. Large blocks are walked in
    parts of STEP inner elements, small ones UNROLL at a time. Which blocks come next is loaded one round ahead, so that
    no copy of a tile waits for two loads that depend on each other.
    """
    target = tl.program_id(0) % num_targets
    first_token = (tl.program_id(0) // num_targets).to(tl.int64) * TOKENS
    tokens_T = tl.arange(0, TOKENS)
    inner_K = tl.arange(0, STEP)
    outputs_N = tl.arange(0, BLOCK)
    is_token_T = tokens_T < num_tokens - first_token

    x_TK = x_ptr + first_token * x_width + (tokens_T[:, None] * x_width + inner_K[None, :])
    stride_k = 1 if TRANSPOSED else BLOCK
    stride_n = BLOCK if TRANSPOSED else 1
    values_KN = values_ptr + (inner_K[:, None] * stride_k + outputs_N[None, :] * stride_n)

    PARTS: tl.constexpr = BLOCK // STEP
    begin = tl.load(offsets_ptr + target)
    end = tl.load(offsets_ptr + target + 1)
    sums_TN = tl.zeros([TOKENS, BLOCK], tl.float32)
    blocks = _blocks_from(begin, end, slots_ptr, sources_ptr, UNROLL)
    for part in range(begin * PARTS, end * PARTS, UNROLL):
        inner = part % PARTS * STEP
        for i in tl.static_range(UNROLL):
            slot, source = blocks[i]
            is_block = part + i < end * PARTS
            x = tl.load(x_TK + (source * BLOCK + inner), mask=is_token_T[:, None] & is_block, other=0.0)
            block = tl.load(values_KN + (slot * (BLOCK * BLOCK) + inner * stride_k), mask=is_block, other=0.0)
            sums_TN = _dot(x, block, sums_TN, PRECISION)
        blocks = _blocks_from((part + UNROLL) // PARTS, end, slots_ptr, sources_ptr, UNROLL)

    if HAS_BIAS:
        sums_TN += tl.load(bias_ptr + target * BLOCK + outputs_N).to(tl.float32)[None, :]
    y_TN = first_token * y_width + (tokens_T[:, None] * y_width + (target * BLOCK + outputs_N)[None, :])
    if GELU:
        tl.store(preactivation_ptr + y_TN, sums_TN.to(y_ptr.dtype.element_ty), mask=is_token_T[:, None])
        sums_TN = 0.5 * sums_TN * (1.0 + tl.erf(sums_TN * _SQRT_HALF))
    tl.store(y_ptr + y_TN, sums_TN.to(y_ptr.dtype.element_ty), mask=is_token_T[:, None])


@triton.jit
def _blocks_from(
    position: tl.tensor, end: tl.tensor, slots_ptr: tl.tensor, sources_ptr: tl.tensor, COUNT: tl.constexpr
) -> tl.tuple:
    """(slot, source) of the next COUNT blocks of a target; slot 0 and source 0 where there are no more."""
    blocks = ()
    for i in tl.static_range(COUNT):
        is_block = position + i < end
        slot = tl.load(slots_ptr + position + i, mask=is_block, other=0)
        source = tl.load(sources_ptr + slot, mask=is_block, other=0)
        # Triton has no unpacking, and mypy sees another type of tuple every time.
        blocks = blocks + ((slot.to(tl.int64), source),)  # type: ignore[assignment]  # noqa: RUF005
    return blocks


@triton.jit
def _dot(a: tl.tensor, b: tl.tensor, sums: tl.tensor, PRECISION: tl.constexpr) -> tl.tensor:
    """sums + a @ b, in fp32."""
    if _INTERPRETED:  # it keeps bf16 as integers, and would multiply those (triton-lang/triton#11584)
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, sums, input_precision=PRECISION)


@triton.jit(do_not_specialize=["num_tokens", "num_rows", "num_groups", "tokens_per_chunk"])
def weight_gradient(
    dy_ptr: tl.tensor,
    x_ptr: tl.tensor,
    values_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    offsets_ptr: tl.tensor,
    slots_ptr: tl.tensor,
    cols_ptr: tl.tensor,
    num_tokens: tl.tensor,
    num_rows: tl.tensor,
    num_groups: tl.tensor,
    tokens_per_chunk: tl.tensor,
    dy_width: tl.tensor,
    x_width: tl.tensor,
    chunk_stride: tl.tensor,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    WITH_BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """What a chunk of the tokens adds to up to GROUP blocks of one block row, and with a row's first group to the bias.

    Row r has the groups from offsets[r] // GROUP + r on: at least one, and at least as many as its blocks fill, found
    without a list that would have to be made before. Groups left over do nothing.
    """
    group = tl.program_id(0) % num_groups
    chunk = tl.program_id(0) // num_groups
    rows_R = tl.arange(0, ROWS)
    first_groups_R = tl.load(offsets_ptr + rows_R, mask=rows_R < num_rows, other=0) // GROUP + rows_R
    row = tl.sum(((first_groups_R <= group) & (rows_R < num_rows)).to(tl.int32), 0) - 1
    begin = tl.load(offsets_ptr + row)
    end = tl.load(offsets_ptr + row + 1)
    group_of_row = group - (begin // GROUP + row)
    first = begin + group_of_row * GROUP

    inputs_M = tl.arange(0, GROUP * BLOCK)
    outputs_N = tl.arange(0, BLOCK)
    is_block_M = first + inputs_M // BLOCK < end
    slots_M = tl.load(slots_ptr + first + inputs_M // BLOCK, mask=is_block_M, other=0)
    cols_M = tl.load(cols_ptr + slots_M, mask=is_block_M, other=0)
    # The compiler cannot see through an index it loads that a block's elements lie together, and would copy one by one.
    x_M = tl.max_contiguous(tl.multiple_of(cols_M * BLOCK + inputs_M % BLOCK, BLOCK), BLOCK)

    has_work = first < end
    if WITH_BIAS:
        has_work = has_work | (group_of_row == 0)
    num_left = tl.where(has_work, tl.minimum(num_tokens - chunk * tokens_per_chunk, tokens_per_chunk), 0)
    first_token = (chunk * tokens_per_chunk).to(tl.int64)
    dy_ptr += first_token * dy_width + row * BLOCK
    x_ptr += first_token * x_width
    tokens_T = tl.arange(0, TOKENS)
    sums_MN = tl.zeros([GROUP * BLOCK, BLOCK], tl.float32)
    bias_N = tl.zeros([BLOCK], tl.float32)
    for done in range(0, num_left, TOKENS):
        is_token_T = tokens_T < num_left - done
        x_MT = tl.load(
            x_ptr + (x_M[:, None] + tokens_T[None, :] * x_width), is_block_M[:, None] & is_token_T[None, :], other=0.0
        )
        dy_TN = tl.load(dy_ptr + (tokens_T[:, None] * dy_width + outputs_N[None, :]), is_token_T[:, None], other=0.0)
        sums_MN = _dot(x_MT, dy_TN, sums_MN, PRECISION)
        if WITH_BIAS:
            bias_N += tl.sum(dy_TN.to(tl.float32), 0)
        x_ptr += TOKENS * x_width
        dy_ptr += TOKENS * dy_width

    values_ptr += chunk.to(tl.int64) * chunk_stride
    values_M = slots_M.to(tl.int64) * (BLOCK * BLOCK) + inputs_M % BLOCK
    values_M = tl.max_contiguous(tl.multiple_of(values_M, BLOCK), BLOCK)
    values_MN = values_ptr + (values_M[:, None] + outputs_N[None, :] * BLOCK)
    tl.store(values_MN, sums_MN.to(values_ptr.dtype.element_ty), mask=is_block_M[:, None])
    if WITH_BIAS:
        bias_ptr += chunk.to(tl.int64) * chunk_stride + row * BLOCK
        tl.store(bias_ptr + outputs_N, bias_N.to(bias_ptr.dtype.element_ty), mask=group_of_row == 0)


@triton.jit(do_not_specialize=["num_chunks"])
def sum_chunks(
    partials_ptr: tl.tensor,
    values_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    num_values: tl.tensor,
    num_sums: tl.tensor,
    num_chunks: tl.tensor,
    SIZE: tl.constexpr,
) -> None:
    """Adds what the chunks gave in the order of the chunks; what lies beyond the values belongs to the bias."""
    sums_E = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    total_E = tl.zeros([SIZE], tl.float32)
    for _ in range(num_chunks):
        total_E += tl.load(partials_ptr + sums_E, mask=sums_E < num_sums, other=0.0)
        partials_ptr += num_sums
    tl.store(values_ptr + sums_E, total_E.to(values_ptr.dtype.element_ty), mask=sums_E < num_values)
    is_bias_E = (sums_E >= num_values) & (sums_E < num_sums)
    tl.store(bias_ptr + (sums_E - num_values), total_E.to(bias_ptr.dtype.element_ty), mask=is_bias_E)
