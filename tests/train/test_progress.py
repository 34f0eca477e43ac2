"""The progress bar of a training."""

from kstore_jax.train.progress import ProgressBar

LINE = {"step": 6, "steps": 24, "loss": 1.25, "tokens_per_s": 12_000}


def test_a_line_is_shown():
    bar = ProgressBar("one", total=24, initial=2)
    bar.show(LINE, "one: pretrain")
    drawn = bar._bar
    assert (drawn.n, drawn.total, drawn.desc) == (6, 24, "one: pretrain")
    assert drawn.postfix == "loss 1.250, 12,000 tokens/s"
    bar.close()


def test_a_line_without_loss_is_shown():
    bar = ProgressBar("one")
    bar.show({**LINE, "loss": None, "skipped": 2})
    assert bar._bar.postfix == "loss –, 2 skipped, 12,000 tokens/s"
    bar.close()


def test_another_training_starts_anew():
    bar = ProgressBar("one")
    bar.show(LINE)
    bar.show({**LINE, "steps": 8, "step": 2})
    assert (bar._bar.n, bar._bar.total) == (2, 8)
    bar.show({**LINE, "steps": 8, "step": 1})
    assert (bar._bar.n, bar._bar.total) == (1, 8)
    bar.close()
