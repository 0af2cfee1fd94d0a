"""`dsparse estimate` against what a run would do, and what it says of runs that could not start."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from dsparse.cli import main as cli
from dsparse.cli.estimate import estimate
from dsparse.data.loader import PretrainingData
from dsparse.engine.config import parse_sparsity_block
from dsparse.engine.initialize import initial_patterns, shape_of
from dsparse.flops import bert_training_flops
from dsparse.models.bert import build_bert
from dsparse.models.selection import select_weights
from dsparse.train.config import CHECKOUT
from dsparse.train.cost import EncoderCost
from tests.data.store_fixture import make_small_store

PRESET = ["--config", str(CHECKOUT / "launch/presets/tiny.yaml"), "--train.steps", "300"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_store(tmp_path_factory.mktemp("estimate") / "store")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as stop:
        cli.main(["estimate", *words])
    return int(stop.value.code or 0), *capsys.readouterr()


def test_it_is_what_the_run_would_do(store: Path) -> None:
    found = estimate([*PRESET, "--data.store", str(store)], num_ranks=2)
    data = PretrainingData(store, seq_length=128)
    assert (found.num_tokens, found.num_samples) == (
        data.manifest.splits["train"].num_tokens,
        data.num_samples_per_epoch,
    )
    num_sequences = found.run.global_batch_size
    assert found.run.gradient_accumulation_steps * found.run.micro_batch_size * 2 == num_sequences
    assert found.num_epochs == 300 * num_sequences / data.num_samples_per_epoch
    assert found.dense_flops == 300 * bert_training_flops(num_layers=2, hidden_size=128, num_sequences=num_sequences)

    model = build_bert("tiny", vocab_size=data.vocab_size, dropout=0.0, seed=1)
    sparsity = parse_sparsity_block(found.run.deepspeed["dynamic_sparsity"])
    weights = select_weights(model, modules=sparsity.modules)
    patterns = initial_patterns({name: shape_of(weight) for name, weight in weights.items()}, sparsity)
    cost = EncoderCost.of_bert(model, "tiny", seq_length=128, num_sequences=num_sequences)
    assert found.sparse_flops == pytest.approx(300 * cost.of_step(SimpleNamespace(patterns=patterns)), rel=1e-12)


def test_what_is_printed(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--ranks", "2", *PRESET, "--data.store", str(store))
    assert (code, err) == (0, "")
    lines = dict(line.split("  ", 1) for line in out.splitlines())
    assert [name.strip() for name in lines] == ["store", "epoch", "step", "run", "dense", "sparse"]
    assert len({len(line) - len(line.split("  ", 1)[1].lstrip()) for line in out.splitlines()}) == 1
    assert str(store) in lines["store"] and "2 ranks x" in out and "300 steps" in out and "times fewer" in out


def test_a_dense_run(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dense = tmp_path / "dense.json"
    written = json.loads((CHECKOUT / "ds_configs/zero1.json").read_text())
    del written["dynamic_sparsity"]
    dense.write_text(json.dumps(written))
    code, out, _ = run(capsys, *PRESET, "--data.store", str(store), "--deepspeed_config", str(dense))
    assert code == 0 and "dense" in out and "sparse" not in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ranks", "0"], "--ranks"),
        (["--ranks", "two"], "'two'"),
        (["--ranks", "3"], "multiple of train.micro_batch_size x ranks"),
        (["--data.store", "nowhere"], "make it with: python data_prep/prepare.py"),
        (["--train.global_batch_size", "100000", "--train.micro_batch_size", "10"], "one batch of 100000 sequences"),
        (["--train.colour", "red"], "colour"),
        (["--deepspeed_config", "nowhere.json"], "nowhere.json"),
    ],
)
def test_bad_input_is_one_line(store: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    code, out, err = run(capsys, *PRESET, "--data.store", str(store), *words)
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1 and said in err, err


def test_other_commands_take_no_more_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["checkpoint", "verify", "somewhere", "--train.steps", "3"])
    assert stop.value.code == 2 and "unrecognized arguments: --train.steps" in capsys.readouterr().err
