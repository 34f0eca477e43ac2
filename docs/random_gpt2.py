"""Writes a GPT-2 with random weights as a Hugging Face folder, with a tokenizer of its own: the
model of `results.md#a-table-of-countries`.

    python docs/random_gpt2.py OUT TEXT [TEXT ...]

The tokenizer is a byte-level BPE of 2,000 tokens, trained on the TEXT files. Four layers of width
128, windows of up to 512 tokens; weights as GPT-2 draws them.
"""

import json
import pathlib
import sys

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

LAYERS, HEADS, WIDTH, POSITIONS, TOKENS = 4, 4, 128, 512, 2000
END = "<|endoftext|>"


def bpe(texts: list[str]) -> Tokenizer:
    """A byte-level BPE trained on these files."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train(texts, trainer)
    return tokenizer


def weights() -> dict[str, np.ndarray]:
    """Normal matrices, norms and biases that do nothing."""
    draw = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return draw.normal(0, 0.02, shape).astype(np.float32)

    def norm(name: str) -> dict[str, np.ndarray]:
        one, zero = (np.full(WIDTH, x, np.float32) for x in (1, 0))
        return {f"{name}.weight": one, f"{name}.bias": zero}

    drawn = {"wte.weight": normal(TOKENS, WIDTH), "wpe.weight": normal(POSITIONS, WIDTH)}
    products = {
        "attn.c_attn": (1, 3),
        "attn.c_proj": (1, 1),
        "mlp.c_fc": (1, 4),
        "mlp.c_proj": (4, 1),
    }
    for layer in range(LAYERS):
        drawn |= norm(f"h.{layer}.ln_1") | norm(f"h.{layer}.ln_2")
        for name, (rows, columns) in products.items():
            drawn[f"h.{layer}.{name}.weight"] = normal(rows * WIDTH, columns * WIDTH)
            drawn[f"h.{layer}.{name}.bias"] = np.zeros(columns * WIDTH, np.float32)
    return {f"transformer.{name}": array for name, array in (drawn | norm("ln_f")).items()}


def main(out: pathlib.Path, texts: list[str]) -> None:
    out.mkdir(parents=True)
    tokenizer = bpe(texts)
    assert tokenizer.get_vocab_size() == TOKENS, "the texts have too few words"
    tokenizer.save(str(out / "tokenizer.json"))
    end = tokenizer.token_to_id(END)
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": TOKENS,
        "n_positions": POSITIONS,
        "n_embd": WIDTH,
        "n_layer": LAYERS,
        "n_head": HEADS,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "bos_token_id": end,
        "eos_token_id": end,
        "tie_word_embeddings": True,
    }
    (out / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    of_tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
    (out / "tokenizer_config.json").write_text(json.dumps(of_tokenizer), encoding="utf-8")
    save_file(weights(), str(out / "model.safetensors"), metadata={"format": "pt"})


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2:])
