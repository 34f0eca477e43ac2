"""The training step of the same shape in PyTorch: a small GPT written here, and Hugging Face's.

Both are what one would write today: scaled_dot_product_attention, fused AdamW, autocast for
bfloat16. Neither does work that kstore_jax leaves out, nor the other way round: no dropout, the
gradient clipped to norm 1, tied embedding. They have learnt positions where kstore_jax rotates.
"""

import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from benchmarks.shape import Shape


class Block(nn.Module):
    """Pre-norm attention and feed-forward, as in nanoGPT."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        rows, length, width = x.shape
        qkv = self.qkv(self.ln_1(x)).view(rows, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(rows, length, width))
        return x + self.down(functional.gelu(self.up(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    """tokens (B, L + 1) -> mean loss of every next token."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = nn.Embedding(shape.window, shape.width)
        self.blocks = nn.ModuleList(Block(shape.width, shape.heads) for _ in range(shape.layers))
        self.ln = nn.LayerNorm(shape.width)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, tokens):
        x = self.tokens(tokens[:, :-1]) + self.positions.weight
        for block in self.blocks:
            x = block(x)
        logits = functional.linear(self.ln(x), self.tokens.weight)
        return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


class HuggingFace(nn.Module):
    """GPT2LMHeadModel with its own loss, which leaves out the last position of a window."""

    def __init__(self, shape: Shape):
        super().__init__()
        from transformers import GPT2Config, GPT2LMHeadModel

        none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        self.model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=shape.vocabulary,
                n_positions=shape.window,
                n_embd=shape.width,
                n_layer=shape.layers,
                n_head=shape.heads,
                use_cache=False,
                bos_token_id=0,
                eos_token_id=0,
                **none,
            )
        )

    def forward(self, tokens):
        return self.model(tokens[:, :-1], labels=tokens[:, :-1]).loss


class TrainingSteps:
    """Steps of AdamW on random tokens that are on the device already, one a call."""

    steps_a_call = 1

    def __init__(self, network: Callable[[Shape], nn.Module], shape: Shape, dtype: str):
        torch.manual_seed(0)
        torch.set_num_threads(shape.threads)
        torch.set_float32_matmul_precision("high")  # as XLA: TF32 where a GPU has it
        self._device = torch.device("cuda" if shape.device == "gpu" else "cpu")
        self._dtype = dtype
        model = network(shape).to(self._device)
        self._weights = list(model.parameters())
        self.parameters = sum(weight.numel() for weight in self._weights)
        self._model = torch.compile(model) if shape.compile else model
        self._optimizer = torch.optim.AdamW(
            self._weights, 1e-3, (0.9, 0.95), weight_decay=0.1, fused=True
        )
        size = shape.batch, shape.window + 1
        self._tokens = torch.randint(shape.vocabulary, size, device=self._device)

    def run(self, calls: int) -> float:
        """Seconds of so many calls, until the last is done."""
        started = time.perf_counter()
        for _ in range(calls):
            self._step()
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    def _step(self) -> None:
        bfloat16 = self._dtype == "bfloat16"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=bfloat16):
            loss = self._model(self._tokens)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimizer.step()
