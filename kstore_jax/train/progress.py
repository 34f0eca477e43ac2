"""The progress bar of a training."""

from typing import Any

from tqdm import tqdm


class ProgressBar:
    """Shows step, loss, tokens/s and time left on stderr, from lines of `metrics.jsonl`.

    Args:
      label: text before the bar.
      options: of `tqdm`, such as `total`, `initial`, `position` and `disable`.
    """

    def __init__(self, label: str, **options: Any):
        self._bar = tqdm(desc=label, unit="step", **options)

    def show(self, line: dict, label: str | None = None) -> None:
        """Shows a line, under another label where it is given; starts anew where the line is not
        from the training shown before."""
        if self._bar.total != line["steps"] or self._bar.n > line["step"]:
            self._bar.reset(line["steps"])
        if label is not None:
            self._bar.set_description_str(label, refresh=False)
        loss = "loss –" if line["loss"] is None else f"loss {line['loss']:.3f}"
        skipped = f", {line['skipped']} skipped" if "skipped" in line else ""
        rate = f"{line['tokens_per_s']:,} tokens/s"
        self._bar.set_postfix_str(f"{loss}{skipped}, {rate}", refresh=False)
        self._bar.update(line["step"] - self._bar.n)

    def close(self) -> None:
        self._bar.close()
