"""The configuration of a training: optimizer, schedule, checkpoints, devices, telemetry."""

import dataclasses
from typing import Any

from kstore_jax.config.fields import choice, flag, names, number, text
from kstore_jax.config.registry import one_of
from kstore_jax.errors import UserError
from kstore_jax.train.base import OPTIMIZERS, SCHEDULES


@dataclasses.dataclass(frozen=True)
class Training:
    """An optimizer, its schedule, and how the loop runs."""

    steps: int = number(80_000, 1)
    """Optimizer updates."""
    batch_size: int = number(96, 1)
    """Examples a step: windows, questions or texts."""
    learning_rate: float = number(1e-3, 0.0)
    """Peak learning rate."""
    warmup_steps: int = number(0, 0)
    """Steps of linear warm-up; 0: none."""
    optimizer: Any = one_of(OPTIMIZERS, "adamw")
    """Rule that turns gradients into updates."""
    schedule: Any = one_of(SCHEDULES, "cosine")
    """Decay of the learning rate."""
    final_lr_ratio: float = number(0.1, 0.0, 1.0)
    """Last learning rate over the peak."""
    weight_decay: float = number(0.1, 0.0)
    """Decoupled weight decay of matrices."""
    clip_global_norm: float = number(1.0, 0.0)
    """Largest global norm of the gradient; 0: no clipping."""
    grad_accum_steps: int = number(1, 1)
    """Micro-batches a step, a divisor of `batch_size`; the update is that of the whole batch
    (BatchNorm sees a micro-batch, and dropout draws for one)."""
    skip_nonfinite: int = number(0, 0)
    """Consecutive steps that may be skipped because their gradient is not finite; 0: stop at the
    first."""
    steps_per_call: int = number(1, 1)
    """Steps a call of the compiled loop."""
    checkpoint_every: int = number(1000, 1, affects_result=False)
    """Steps between checkpoints, a multiple of `steps_per_call`; the newest two are kept."""
    checkpoint_minutes: float = number(0.0, 0.0, affects_result=False)
    """Minutes after which a checkpoint is written in any case; 0: never."""
    keep_checkpoint_every: int = number(0, 0, affects_result=False)
    """Checkpoints of multiples of this many steps are kept for good, a multiple of
    `checkpoint_every`; 0: none."""

    def __post_init__(self):
        for name, of in (
            ("checkpoint_every", "steps_per_call"),
            ("evaluate_every", "steps_per_call"),
            ("keep_checkpoint_every", "checkpoint_every"),
        ):
            if (steps := getattr(self, name, 0)) % getattr(self, of):
                raise UserError(
                    f"{name}: expected a multiple of {of} = {getattr(self, of)}, got {steps}"
                )
        optimizer = OPTIMIZERS.of(self.optimizer)
        if optimizer.needs_matrices and not self.trains_matrices:
            raise UserError(
                "optimizer: expected adamw, since no whole matrix is trained here, got "
                f"{optimizer.name!r}"
            )
        if self.batch_size % self.grad_accum_steps:
            raise UserError(
                f"grad_accum_steps: expected a divisor of batch_size = {self.batch_size}, got "
                f"{self.grad_accum_steps}"
            )
        if self.warmup_steps and 0 < self.steps <= self.warmup_steps:
            raise UserError(
                f"warmup_steps: expected less than steps = {self.steps}, got {self.warmup_steps}"
            )

    @property
    def trains_matrices(self) -> bool:
        """Whether whole matrices of the blocks or of a head are trained."""
        return True


@dataclasses.dataclass(frozen=True)
class LowRank(Training):
    """A training of all weights, or of low-rank updates (LoRA): W' = W + alpha A B, where A starts
    at zero and B Gaussian."""

    method: str = choice("full", "full", "lora", in_identity="set")
    """`full` to train every weight, or `lora`."""
    sites: tuple = names(in_identity="set")
    """Modules of a block that LoRA updates, such as `up`; empty: queries and values, or those of
    the architecture."""
    rank: int = number(8, -1, in_identity="set")
    """LoRA rank of the modules; 0: frozen, -1: their whole matrices."""
    embedding_rank: int = number(0, -1, in_identity="set")
    """LoRA rank of the embedding; 0: frozen, -1: the whole matrix."""
    embedding_side: str = choice("input", "input", "both", "new", in_identity="set")
    """Where the update of a tied embedding acts: its `input` alone, `both` input and head, or input
    and the head's rows of `new` tokens, which neither biographies nor questions about attributes
    have."""
    alpha: float = number(4.0, 0.0, in_identity="set")
    """Scale of the LoRA update."""
    init_std: float = number(0.02, 0.0, in_identity="set")
    """Standard deviation of the initial LoRA weights (the papers leave it open)."""

    def __post_init__(self):
        super().__post_init__()
        if self.method == "lora" and self.rank == self.embedding_rank == 0:
            raise UserError("rank: expected other than 0 where embedding_rank = 0")

    @property
    def trains_matrices(self) -> bool:
        return self.method == "full"


@dataclasses.dataclass(frozen=True)
class TelemetryConfig:
    """Where metrics go besides `metrics.jsonl`; no result depends on it."""

    tensorboard: bool = flag(False)
    """Write TensorBoard files into the stage's folder (extra `tensorboard`)."""
    wandb: str = text("")
    """Weights & Biases project (extra `wandb`); empty: none. Offline: WANDB_MODE=offline."""
    profile_from: int = number(100, 0)
    """First step of the profile in the stage's folder."""
    profile_steps: int = number(0, 0)
    """Profiled steps; 0: none."""


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Axes of the device mesh; results depend on it by rounding only."""

    data: int = number(0, 0)
    """Copies of the model, each with its rows of the batch; 0: all remaining devices."""
    fsdp: int = number(1, 1)
    """Parts that weights and optimizer state are split into, with rows of their own."""
    tensor: int = number(1, 1)
    """Parts that each matrix product is split into."""
    deterministic: bool = flag(False)
    """Whether a restart computes the same bits on GPUs: operations that add in any order are left
    out, and the kernels that were chosen are kept beside the stages. It costs speed, how much is
    not measured. CPUs compute the same bits without it."""
