"""The configuration of finetuning."""

import dataclasses
from typing import Any

from kstore_jax.config import parse as parsing
from kstore_jax.config.fields import as_dict, choice, flag, names, number, rows
from kstore_jax.config.rows import without_fields
from kstore_jax.errors import UserError
from kstore_jax.tasks.base import check_tasks
from kstore_jax.train.config import LowRank


@dataclasses.dataclass(frozen=True)
class Finetune(LowRank):
    """Finetuning on questions: LoRA on queries, values and the embedding (Part 3.2, appendix B), or
    all weights."""

    tasks: tuple = names("extraction")
    """Tasks whose questions are trained."""
    steps: int = number(50_000, 0)
    """Optimizer updates; 0: the pretrained model answers the questions (mixed training)."""
    batch_size: int = number(48, 1)
    """Questions a step."""
    learning_rate: float = number(3e-4, 0.0)
    """Peak learning rate."""
    weight_decay: float = number(0.01, 0.0)
    """Decoupled weight decay of matrices."""
    method: str = choice("lora", "lora", "full")
    """`lora`, or `full` to train every weight."""
    rank: int = number(8, -1)
    """LoRA rank of queries and values; 0: frozen, -1: their whole matrices."""
    embedding_rank: int = number(128, -1)
    """LoRA rank of the embedding; 0: frozen, -1: the whole matrix."""
    embedding_side: str = choice("input", "input", "both", "new")
    """Where the update of a tied embedding acts: its `input` alone, `both` input and head, or input
    and the head's rows of `new` tokens, which neither biographies nor questions about attributes
    have."""
    alpha: float = number(4.0, 0.0)
    """Scale of the LoRA update."""
    init_std: float = number(0.02, 0.0)
    """Standard deviation of the initial LoRA weights (the papers leave it open)."""
    people_fraction: float = number(1.0, 0.0, 1.0, in_identity="set")
    """Fraction of P_train's people whose questions are trained, more than 0; the others of P_train
    are scored as held back."""
    first: tuple = rows()
    """One row of other values of these fields, as `product` returns: an earlier
    finetuning, on all of P_train, whose model this one starts from, such as one on `extraction`.
    Empty: it starts from the pretrained model."""
    grid: tuple = rows()
    """Rows of other values of these fields, as `product` returns. Each row is finetuned with the
    fraction `validation` of P_train held back. The row that answers most questions about those
    people is scored on P_test. Empty: no grid."""
    validation: float = number(0.1, 0.0, 0.9)
    """Fraction of P_train's people held back to choose from `grid`."""
    refit: bool = flag(False)
    """Whether the chosen row of `grid` is finetuned once more, on all of P_train, and that model
    answers the questions. False: the model that chose it answers, which has read no question about
    the people held back. Without a grid it means nothing."""

    def __post_init__(self):
        super().__post_init__()
        if not self.people_fraction:
            raise UserError("people_fraction: expected more than 0, got 0.0")
        _ = self.rows, self.first_row  # checks them

    @property
    def rows(self) -> "tuple[Finetune, ...]":
        """The finetunings: one for each row of the grid, or this one alone."""
        if not self.grid:
            return (self,)
        if not self.steps or not self.validation:
            raise UserError("grid: expected steps and validation of more than 0 beside a grid")
        rows = self._parsed("grid")
        if any((row.people_fraction, row.first) != (self.people_fraction, ()) for row in rows):
            raise UserError("grid: expected rows without people_fraction and first")
        return rows

    @property
    def first_row(self) -> "Finetune | None":
        """The earlier finetuning; None where there is none."""
        if not self.first:
            return None
        rows = self._parsed("first", people_fraction=1.0)
        if len(rows) != 1 or not rows[0].steps:
            raise UserError(f"first: expected one row with steps of more than 0, got {len(rows)}")
        check_tasks(rows[0].tasks, "first.tasks")
        return rows[0]

    def _parsed(self, field: str, **values: Any) -> "tuple[Finetune, ...]":
        """These settings with the values of each row of a field."""
        plain = {**as_dict(self), "grid": (), "first": (), **values}
        rows = without_fields((), getattr(self, field), field)
        return tuple(parsing.parse(Finetune, {**plain, **dict(row)}, f"{field}.") for row in rows)
