"""Ways to break a run: values of other types and sizes, keys misspelt, files that are none, flags nobody foresaw."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

OWNED = "owned"
"""A file that only appears if text from a configuration is run as code."""


class FileKind(StrEnum):
    """What stands where a file is expected."""

    FILE = "file"
    FOLDER = "folder"
    NOTHING = "nothing"
    BROKEN_LINK = "broken link"


@dataclass(frozen=True)
class Spoiled:
    """A file, or what is there instead."""

    kind: FileKind
    content: bytes = b""


def _nested(depth: int) -> Any:
    node: Any = []
    for _ in range(depth):
        node = [node]
    return node


ODD_VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 48, 256, 0.5, -0.0, 1e-320, 1e308, -1e308, float("nan"), float("inf"),
    float("-inf"), 2**31, 2**63, 2**64, -(2**63), 10**400, 32.5, 2.0, "", " ", "auto", "AUTO", "2", "0.9", "nan",
    "1e3", "null", "true", "٣", "x" * 5000, "a\nb", "a\x00b", "\x1b[31mred", "\u202eabc", "\ud800", "😀", "re:(",
    "re:", "%s", "{}", "cpu", "nvme", [], [[]], [1, 2], ["a"], [None], [""], {}, {"a": {}}, {"": None},
    {"enabled": True}, _nested(40),
]  # fmt: skip


@st.composite
def mutate(draw: DrawFn, tree: dict[str, Any]) -> None:
    """Changes one place of a tree of settings, in place: its value, its key, or that it is there at all."""
    places = list(_places(tree))
    how = draw(st.sampled_from(["value", "value", "value", "value", "misspell", "remove", "unknown", "move"]))
    if not places or how == "unknown":
        tree[draw(st.sampled_from(["unknown", "steps", "", "é", "a.b", "__class__", "zero", "stage"]))] = draw(
            st.sampled_from(ODD_VALUES)
        )
        return
    owner, key = draw(st.sampled_from(places))
    if how == "value":
        values = _PATHS if key in _PLACES_OF_FILES else ODD_VALUES
        owner[key] = copy.deepcopy(draw(st.sampled_from(values)))
    elif how == "misspell":
        place = draw(st.integers(0, max(0, len(key) - 1)))
        owner[draw(st.sampled_from([key[:place] + key[place + 1 :], key.upper(), key + "s", key + " "]))] = owner.pop(
            key
        )
    elif how == "remove":
        del owner[key]
    else:
        tree[key] = owner.pop(key)


# No place outside the folder of the example: an odd one might be written to.
_PLACES_OF_FILES = ("output", "store", "output_path")
_PATHS: list[Any] = [
    None, "", ".", "run.yaml", "run.yaml/x", "a/../b", "x" * 300, "x/" * 3000, "a\x00b", "\ud800", "😀", "a\nb", 3,
    True, [], {}, "/dev/null", "/dev/null/x", "/proc/none", " ", "loop",
]  # fmt: skip


def _places(tree: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    found = []
    for key, value in tree.items():
        found.append((tree, key))
        if isinstance(value, dict):
            found += _places(value)
    return found


@st.composite
def spoil(draw: DrawFn, content: bytes, *, is_yaml: bool) -> Spoiled:
    """A file that is no longer what it was."""
    how = draw(st.sampled_from(["bytes", "bytes", "text", "text", "text", "text", "kind"]))
    if how == "kind":
        return Spoiled(draw(st.sampled_from([kind for kind in FileKind if kind is not FileKind.FILE])))
    if how == "text":
        return Spoiled(FileKind.FILE, draw(st.sampled_from(_YAML_TEXTS if is_yaml else _JSON_TEXTS)))
    place = draw(st.integers(0, len(content)))
    junk = draw(st.sampled_from([b"", b"\x00", b"\xff\xfe", b"{", b"]", b'"', b":", b"\t", b"&a ", b"*a", b"#", b"!!"]))
    rest = draw(st.sampled_from([content[place:], content[place + 1 :], b""]))
    return Spoiled(FileKind.FILE, content[:place] + junk + rest)


def _alias_bomb() -> bytes:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    return "\n".join(lines).encode()


_YAML_TEXTS = [
    b"", b"   \n", b"42\n", b"- a\n- b\n", b"null\n", b"~", b"'", b"\t", b"train: [\n", b"train:\n\tsteps: 3\n", b"{",
    b"---\ntrain: {steps: 3}\n---\ntrain: {steps: 4}\n", b"train: {steps: 3}\ntrain: {steps: 4}\n", b"\xff\xfe\x00",
    "train: {steps: 3}".encode("utf-16"), b"\xef\xbb\xbfdeepspeed_config: engine.json\n", b"[" * 3000, b"{a: " * 2000,
    b"train: {steps: " + b"9" * 5000 + b"}\n", b"output: " + b"x" * 100_000, b"train: &a {steps: *a}\n",
    _alias_bomb(), b"train: " + _alias_bomb().replace(b"\n", b", ").replace(b"a0:", b"{a0:", 1) + b"}\n",
    f"model: !!python/object/apply:os.system ['touch {OWNED}']\n".encode(),
    f"output: !!python/object/apply:os.mkdir [{OWNED}]\n".encode(), b"train: !!python/name:os.system\n",
    b"train: !!set {steps}\n", b"output: !!binary aGk=\n", b"output: 2024-01-01\n", b"train: !unknown {steps: 3}\n",
    b"? [a, b]\n: 3\n", b"1: 2\n", b"null: 2\n", b"true: 2\n", b"<<: {output: out}\n", b"<<: 3\n",
    b"train: {? : 1}\n", b"train: null\n", b"train: 3\n", b"train: []\n", b"train: train\n",
    b"model: {preset: [tiny]}\n", b"data: run.yaml\n", b"config: run.yaml\n", b"config: null\n",
    b"debug: true\nlocal_rank: x\n", b"show_config: maybe\n", b"help: true\n", b"print_config: true\n",
    b"train.steps: 3\n", b"train: {steps: 0x10, log_every: 0o7, seed: 1_000, eval_every: 1:30}\n",
    b"train: {learning_rate: .nan}\n", b"train: {learning_rate: .inf}\n", b"train: {learning_rate: 1e-3}\n",
    b"model: {class_path: os.system, init_args: {command: touch owned}}\n", b"class_path: builtins.exit\n", b"\x00",
    b"train: {steps: ${oc.env:HOME}}\n", b"deepspeed_config: [engine.json]\n", b"data: {store: {a: b}}\n",
    b"%YAML 9.9\n---\n",
]  # fmt: skip
_JSON_TEXTS = [
    b"", b"  ", b"42", b"null", b"true", b"[]", b"{}", b'"x"', b"NaN", b"{,}", b"{'a': 1}", b'{"a": 1,}',
    b"// no\n{}", b'{"optimizer": {}, "optimizer": {}}', b"\xff\xfe\x00", b"\xef\xbb\xbf{}",
    '{"a": 1}'.encode("utf-16"), b"\x00", b"[" * 100_000, b'{"a":' * 100_000,
    b'{"train_batch_size": ' + b"9" * 5000 + b"}", b'{"\\ud800": 1}', b'{"": {}}', b'{"train_batch_size": 1e400}',
    b'{"optimizer": null, "scheduler": null, "zero_optimization": null}',
    b'{"optimizer": [], "scheduler": [], "zero_optimization": [], "dynamic_sparsity": []}',
    b'{"dynamic_sparsity": null}', b'{"optimizer": "AdamW"}', b'{"optimizer": {"type": "AdamW", "params": null}}',
    b'{"optimizer": {"params": {}}}',
    b'{"optimizer": {"type": null, "params": {"lr": "auto"}}, "dynamic_sparsity": {"sparsity": 0.5, "updates": 1}}',
    b'{"optimizer": {"type": "AdamW", "params": {"lr": [0.1]}}, "dynamic_sparsity": {}}', b"{}{}",
    b'{"a": "' + b"x" * 9999,
    b'{"optimizer": {"type": "SGD", "params": {"lr": "auto"}}, "zero_optimization": {"stage": "two"}}',
]  # fmt: skip

FLAGS: list[tuple[str, ...]] = [
    ("--train.steps",), ("--train.steps", ""), ("--train.steps=1e3",), ("--train.steps", "0x10"),
    ("--train.steps", "1_0"), ("--train.steps", "null"), ("--train.steps", "[2]"), ("--train.steps", "٣"),
    ("--train.steps", "9" * 5000), ("--train.steps", "2.0"), ("--train.steps", "-2"),
    ("--train.steps", "!!python/object/apply:os.system [touch owned]"), ("--train", "{steps: 3}"),
    ("--train", "nofile"), ("--train", "run.yaml"), ("--model", "[]"), ("--model", "null"), ("--train", "[" * 3000),
    ("--train.steps", "[" * 3000), ("--config", ""), ("--config", "/dev/null"), ("--config=.",),
    ("--config", "engine.json"), ("--config", "\udcff"), ("--config",), ("--deepspeed_config", ""), ("--config=",),
    ("--deepspeed_config", "."), ("--deepspeed_config", "/dev/null"), ("--deepspeed_config", "run.yaml"),
    ("--deepspeed_config", "\udcff.json"), ("--deepspeed_config", "x" * 5000), ("--deepspeed_config", "{}"),
    ("--deepspeed_config", "null"), ("--data.store", ""), ("--data.store", "."), ("--data.store", "\udcff"),
    ("--data.store", "x" * 300), ("--output", ""), ("--output", "x" * 300), ("--output", "\udcff"),
    ("--output", "a\nb"), ("--output", "run.yaml"), ("--output", "x/" * 3000), ("--output", "null"),
    ("--output", "/dev/null/x"), ("--output", "3"), ("--output", "~nobody_of_this_name/x"),
    ("--checkpoint.resume", ""), ("--checkpoint.resume", ".."), ("stray",), ("--checkpoint.resume", "."),
    ("--checkpoint.resume", "run.yaml"), ("--checkpoint.resume", "\udcff"), ("--",), ("-h",),
    ("--checkpoint.resume", "x" * 5000), ("--help",), ("--print_config",), ("--print_config", "x"),
    ("--local_rank", "x"), ("--local_rank=1",), ("--train.learning_rate", "nan"), ("--train.learning_rate", "inf"),
    ("--train.steps+", "2"), ("--train.learning_rate", "1e400"), ("--train.learning_rate", "True"),
    ("--data.whole_word", "maybe"), ("-x",), ("--data.num_workers", "10000"), ("--train.seed", str(2**64)),
    ("--train.eval_samples", str(10**30)), ("--" + "x" * 5000,), ("--model.dropout", "{"),
    ("--model.dropout", "1.0000001"), ("--model.max_seq_length", str(10**12)), ("--=",),
    ("--model.max_seq_length", "100000000"), ("--model.preset", "TINY"), ("--model.preset", ""),
    ("--train.seed", "-0"), ("--model.preset", "\x1b[31m"), ("--monitor.log_level", "DEBUG"),
    ("--monitor.log_level", "debug"), ("--@", "x"), ("--train.global_batch_size", str(10**30)),
    ("--train.log_every", str(10**30)), ("--monitor.pattern_every", "1"),
    ("--train.stop_at_step", "99999999999999999999"), ("--monitor", "{tensorboard: true}"), ("--train.help",),
    ("--config.x", "1"), ("--model.help",), ("--train.steps.x", "1"), ("--model.preset.x=1",),
    ("--", "--train.steps", "3"), ("",),
]  # fmt: skip
"""Words that are added to the command line."""

_CURRICULUM = {
    "enabled": True, "curriculum_type": "seqlen", "min_difficulty": 8, "max_difficulty": 16,
    "schedule_type": "fixed_linear", "schedule_config": {"total_curriculum_step": 2, "difficulty_step": 8},
}  # fmt: skip

EXTRAS: list[tuple[str, Any]] = [
    ("zero_optimization.offload_optimizer", {"device": "nvme", "nvme_path": "nvme"}), ("sparse_gradients", True),
    ("zero_optimization.offload_optimizer", {"device": "cpu", "ratio": 0.3}), ("gradient_accumulation_steps", 2),
    ("zero_optimization.offload_param", {"device": "cpu"}), ("zero_optimization.stage", 4),
    ("zero_optimization.stage", "3"), ("zero_optimization.offload_optimizer", {"device": "cpu", "pin_memory": True}),
    ("gradient_accumulation_steps", 0), ("zero_optimization.reduce_bucket_size", 1),
    ("zero_optimization.reduce_bucket_size", 0), ("dump_state", True), ("zero_optimization.reduce_bucket_size", -1),
    ("zero_optimization.allgather_bucket_size", 0), ("steps_per_print", 0),
    ("zero_optimization.allgather_bucket_size", 1), ("zero_optimization.contiguous_gradients", False),
    ("steps_per_print", 1), ("zero_optimization", {"stage": 2, "overlap_comm": True, "reduce_bucket_size": 10**6}),
    ("zero_optimization.reduce_scatter", False), ("memory_breakdown", True),
    ("zero_optimization.allgather_partitions", False), ("zero_optimization.stage3_param_persistence_threshold", 0),
    ("zero_optimization.sub_group_size", 1), ("zero_optimization.sub_group_size", 0), ("wall_clock_breakdown", True),
    ("zero_optimization.stage3_max_live_parameters", 0), ("zero_optimization.stage3_prefetch_bucket_size", 0),
    ("zero_optimization.stage3_gather_16bit_weights_on_model_save", True), ("zero_optimization.cpu_offload", True),
    ("zero_optimization.round_robin_gradients", True), ("zero_optimization.zero_hpz_partition_size", 2),
    ("zero_optimization.mics_shard_size", 1), ("zero_optimization.zenflow", {"topk_ratio": 0.1}),
    ("prescale_gradients", True), ("zero_optimization.ignore_unused_parameters", False),
    ("zero_optimization.elastic_checkpoint", True), ("amp", {"enabled": True}), ("zero_optimization.unknown", 1),
    ("zero_optimization.load_from_fp32_weights", False), ("gradient_predivide_factor", 0.0),
    ("zero_optimization.legacy_stage1", True), ("zero_optimization.use_multi_rank_bucket_allreduce", False),
    ("zero_optimization.log_trace_cache_warnings", True), ("zero_optimization.leaf_module", {"classes": ["x"]}),
    ("gradient_predivide_factor", 2.0), ("communication_data_type", "bf16"), ("communication_data_type", "fp16"),
    ("communication_data_type", "int4"), ("data_types", {"grad_accum_dtype": "fp32"}),
    ("data_types", {"grad_accum_dtype": "bf16"}), ("data_types", {"grad_accum_dtype": "x"}), ("data_types", None),
    ("bf16", {"enabled": True, "immediate_grad_update": True}), ("bf16", {"enabled": "yes"}),
    ("bf16.bf16_master_weights_and_grads", True), ("fp16", {"enabled": "auto"}), ("bf16", True),
    ("fp16", {"enabled": True}), ("bf16", {"enabled": True, "check_grad_overflow": True}), ("bf16", None),
    ("fp16", None), ("flops_profiler", {"enabled": True, "profile_step": 1}),
    ("flops_profiler", {"enabled": True, "profile_step": 2}), ("comms_logger", {"enabled": True, "verbose": True}),
    ("csv_monitor", {"enabled": True, "output_path": "csv", "job_name": "j"}), ("csv_monitor", {"enabled": True}),
    ("wandb", {"enabled": True}), ("comet", {"enabled": True}), ("tensorboard", {"enabled": True}),
    ("activation_checkpointing", {"partition_activations": True}),
    ("progressive_layer_drop", {"enabled": True, "theta": 0.5}), ("eigenvalue", {"enabled": True}),
    ("curriculum_learning", {"enabled": True}), ("data_efficiency", {"enabled": True}),
    ("curriculum_learning", _CURRICULUM),
    ("data_efficiency", {"enabled": True, "data_sampling": {"enabled": True}, "data_routing": {"enabled": True}}),
    ("elasticity", {"enabled": True}), ("autotuning", {"enabled": True}), ("compression_training", {}),
    ("nebula", {"enabled": True}), ("hybrid_engine", {"enabled": True}), ("aio", {"block_size": 0}),
    ("use_node_local_storage", True), ("amp", {"enabled": "x"}), ("checkpoint", {"tag_validation": "Fail"}),
    ("checkpoint", {"tag_validation": "x"}), ("checkpoint", {"load_universal": True}),
    ("checkpoint", {"use_node_local_storage": True}), ("checkpoint", {"parallel_write": {"pipeline_stage": True}}),
    ("checkpoint", {"writer": {"type": "FAST"}}), ("pipeline", {"stages": 2}),
    ("tensor_parallel", {"autotp_size": 2}), ("sequence_parallel_size", 2), ("compile", {"deepcompile": True}),
    ("torch_autocast", {"enabled": True}), ("weight_quantization", {"quantize": True}),
    ("expert_parallel", {"enabled": True}), ("dataloader_drop_last", True), ("graph_harvesting", True),
    ("disable_allgather", True), ("fp32_allreduce", True), ("seed", -1), ("timers", {"throughput": None}),
    ("optimizer.type", "OneBitAdam"), ("optimizer.type", "adamw"), ("optimizer.type", "Lamb"),
    ("optimizer.type", "Muon"), ("optimizer.legacy_fusion", True), ("optimizer.params.eps", 0),
    ("optimizer.params.betas", [0.9]), ("optimizer.params.betas", 0.9), ("optimizer.params.betas", [1.0, 1.0]),
    ("optimizer.params.lr", -1.0), ("optimizer.params.max_grad_norm", 1.0), ("optimizer.params.weight_decay", -1.0),
    ("optimizer.params.weight_decay", "0.1"), ("optimizer.params.foreach", True), ("optimizer.params.fused", True),
    ("optimizer.params.maximize", True), ("optimizer.params.capturable", True), ("optimizer.params.amsgrad", True),
    ("optimizer.params.params", []), ("optimizer.params.model_parameters", None), ("optimizer.params.momentum", -1.0),
    ("optimizer.params.torch_adam", False), ("gradient_clipping", -1.0), ("gradient_clipping", "1"),
    ("gradient_clipping", float("nan")), ("gradient_clipping", None), ("gradient_clipping", True),
    ("scheduler.type", "OneCycle"), ("scheduler.params.warmup_min_lr", 1.0), ("scheduler.params.warmup_min_lr", "x"),
    ("scheduler.params.warmup_type", "exponential"), ("scheduler.params.total_num_steps", 1),
    ("scheduler.params.last_batch_iteration", 5), ("scheduler.params.warmup_num_steps", 10**9),
    ("scheduler.params.unknown", 1), ("scheduler.params.cos_min_ratio", -2.0), ("scheduler.params.optimizer", None),
    ("train_batch_size", 4), ("train_micro_batch_size_per_gpu", 2), ("train_batch_size", 0), ("train_batch_size", -4),
    ("train_micro_batch_size_per_gpu", 0), ("train_batch_size", True), ("train_batch_size", 4.0),
    ("zero_allow_untested_optimizer", False), ("zero_force_ds_cpu_optimizer", True),
    ("dynamic_sparsty", {"sparsity": 0.5}),
]  # fmt: skip
"""Settings of DeepSpeed by their place, right, wrong, or not for sparse runs."""
