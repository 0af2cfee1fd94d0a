"""The loop's small parts: seeds, costs, what is shown."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from dsparse.flops import bert_training_flops
from dsparse.models.bert import PRESETS, BertForLabelledPreTraining, bert_config
from dsparse.pattern.block_pattern import BlockPattern
from dsparse.train.cost import EncoderCost
from dsparse.train.host import tune_host
from dsparse.train.loop import seed_step
from dsparse.train.progress import Progress


def draw(seed: int, step: int, rank: int) -> list[float]:
    seed_step(seed, step=step, rank=rank)
    return [float(value) for value in torch.rand(4)]


def test_dropout_is_a_function_of_seed_step_and_rank() -> None:
    torch.rand(3)
    first = draw(42, 7, 0)
    torch.rand(5)
    assert draw(42, 7, 0) == first
    assert len({tuple(draw(*key)) for key in ((42, 7, 0), (43, 7, 0), (42, 8, 0), (42, 7, 1), (4, 27, 0))}) == 5


@pytest.mark.parametrize("density", [None, 0.25])
@pytest.mark.parametrize("preset", ["tiny", "medium"])
def test_a_step_costs_what_the_paper_counts(preset: str, density: float | None) -> None:
    with torch.device("meta"):
        model = BertForLabelledPreTraining(bert_config(preset, vocab_size=64, dropout=0.0))
    cost = EncoderCost.of_bert(model, preset, seq_length=128, num_sequences=32)
    patterns = {} if density is None else {
        name: BlockPattern.random(shape, block=16, density=density) for name, shape in cost.shapes.items()
    }  # fmt: skip
    size = PRESETS[preset]
    assert cost.of_step(SimpleNamespace(patterns=patterns)) == bert_training_flops(
        num_layers=size.num_layers, hidden_size=size.hidden_size, num_sequences=32, density=density or 1.0
    )


ROW = {
    "loss": 7.5, "mlm_loss": 6.9, "learning_rate": 1e-3, "tokens_per_s": 12345.6, "sparsity": 0.9, "dof_covered": 0.25,
    "num_updates": 3,
}  # fmt: skip


def test_progress_is_plain_lines_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(speaks=True, first_step=0, last_step=10, is_live=False) as progress:
        progress.train(5, ROW)
        progress.train(10, {**ROW, "sparsity": None, "dof_covered": None})
    sparse, dense = capsys.readouterr().out.splitlines()
    for words in ("step 5/10", "loss 7.5000", "lr 1.00e-03", "12,346 tokens/s", "DOF 25.0%", "3 updates", "left"):
        assert words in sparse
    assert "DOF" not in dense


def test_other_ranks_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    for is_live in (True, False):
        with Progress(speaks=False, first_step=0, last_step=10, is_live=is_live) as progress:
            progress.step(5)
            progress.train(5, ROW)
            progress.say("a line")
    assert capsys.readouterr() == ("", "")


def test_progress_on_a_terminal_shows_the_same_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(speaks=True, first_step=2, last_step=10, is_live=True) as progress:
        progress.step(5)
        progress.train(5, ROW)
        progress.say("a line of its own")
    shown = capsys.readouterr().out
    assert "5/10" in shown and "a line of its own" in shown


def test_given_threads_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    threads = torch.get_num_threads()
    assert tune_host(2).startswith("3 threads per rank (OMP_NUM_THREADS)")
    assert torch.get_num_threads() == threads
