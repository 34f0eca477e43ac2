"""A pretrained model of a run as a folder of Hugging Face, with the tokenizer it was trained on."""

import json
import pathlib
from collections.abc import Sequence

from kstore_jax.corpus.tokenizer import Vocabulary
from kstore_jax.errors import UserError
from kstore_jax.model import hf_checkpoint
from kstore_jax.pipeline.lab import Lab
from kstore_jax.pipeline.results import rows_of
from kstore_jax.report.groups import groups


def export(run: pathlib.Path, out: pathlib.Path, row: int | None = None) -> None:
    """Writes the model that `run` pretrained into `out`.

    Its logits are the model's own, with every row of the embedding; those beyond the vocabulary
    stand for no token. Of a compact vocabulary, `tokenizer.json` cuts text as before and numbers
    the tokens as the model does; what the model does not know has numbers beyond its rows, so that
    it fails rather than passing for another token.

    Args:
      run: the folder of a run, or that of one `pretrain-...` stage.
      row: which of its experiments; None where all have one model.

    Raises:
      UserError: there is no such run or row, it has several models or none that is finished, or
        Hugging Face has no such network; nothing is written.
    """
    lab = _lab(run, row)
    vocabulary, end = lab.vocabulary, lab.vocabulary.end_of_text
    tokenizer = tokenizer_json(vocabulary, lab.shape.vocabulary)
    end_token = vocabulary.tokenizer.backend.id_to_token(vocabulary.tokenizer.end_of_text)
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end_token}
    files = {"tokenizer.json": tokenizer, "tokenizer_config.json": json.dumps(about) + "\n"}
    ends = {"bos_token_id": end, "eos_token_id": end}
    hf_checkpoint.write(out, lab.shape, lab.pretrained, ends, files)


def _lab(run: pathlib.Path, row: int | None) -> Lab:
    """The experiment whose pretrained model is meant."""
    of_stage = run.name.startswith("pretrain-")
    workdir = run.absolute().parents[1] if of_stage else run
    labs = rows_of(workdir, row)
    found: dict[pathlib.Path, int] = {}
    for which, lab in labs.items():
        found.setdefault(lab.cache.folder(lab.pretrain), which)
    if of_stage:
        found = {folder: which for folder, which in found.items() if folder.name == run.name}
    if not found:
        raise UserError(f"--run: {run} is no stage of the run in {workdir}")
    if len(found) > 1:
        told = _labels([*labs.values()])
        several = ", ".join(f"{which} ({told[which]})" for which in found.values())
        raise UserError(f"--row: {run} has several models; expected one of {several}")
    ((folder, which),) = found.items()
    lab = labs[which]
    if lab.cache.result(lab.pretrain) is None:
        raise UserError(f"--run: {folder}: is not there or not finished; run it first")
    return lab


def _labels(labs: Sequence[Lab]) -> dict[int, str]:
    """What the report calls each row of a run, and its seed."""
    configs = [lab.experiment for lab in labs]
    rows = [{"dataset": e.data.variant, "name": e.name, "row": i} for i, e in enumerate(configs)]
    return {
        row["row"]: f"{group.label}, seed {configs[row['row']].seed}"
        for group in groups(rows, configs)
        for row in group.rows
    }


def tokenizer_json(vocabulary: Vocabulary, rows: int) -> str:
    """The tokenizer, with the numbers of a model that has so many rows of embedding.

    Raises:
      UserError: the vocabulary is compact and its tokenizer's numbers cannot be changed.
    """
    whole = vocabulary.tokenizer.backend.to_str()
    if vocabulary.size == vocabulary.tokenizer.size:
        return whole
    described = json.loads(whole)
    known = described["model"].get("vocab")
    if not isinstance(known, dict):
        raise UserError("data.vocabulary: a compact one of this kind of tokenizer has no export")
    place = dict(zip(vocabulary.ids.tolist(), range(vocabulary.size), strict=True))
    for old in range(vocabulary.tokenizer.size):
        place.setdefault(old, rows + old)
    described["model"]["vocab"] = {token: place[old] for token, old in known.items()}
    for added in described["added_tokens"]:
        added["id"] = place[added["id"]]
        described["model"]["vocab"][added["content"]] = added[
            "id"
        ]  # whose numbers are the ones used
    described["post_processor"] = None  # it would add tokens by their old numbers
    return json.dumps(described, ensure_ascii=False)
