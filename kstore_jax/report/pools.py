"""The pools of values of a world, beside the paper's."""

import numpy as np

from kstore_jax.pipeline.data import ExperimentData
from kstore_jax.pipeline.experiment import Experiment
from kstore_jax.report import paper


def pools(experiment: Experiment) -> dict[str, dict[str, float | None]]:
    """For each attribute the number of `values`, and the shares of the `commonest` value and the
    commonest `first_word`; `paper_commonest` and `paper_first_word` are the same shares of the
    paper's pools (Part 3.1, Fig. 7, first row), where it has the attribute."""
    drawn_from = ExperimentData(experiment.world, experiment.data).language.pools
    printed = None if experiment.world.folder else paper.baseline()
    sizes = {}
    for attribute, values in drawn_from.values.items():
        drawn = np.array(values)
        for rule in (drawn_from.functions, drawn_from.columns):
            drawn = drawn[rule[attribute]] if attribute in rule else drawn
        words = np.array([value.split(" ")[0].rstrip(",") for value in drawn])
        value, word = (np.unique(x, return_counts=True)[1].max() / len(x) for x in (drawn, words))
        sizes[attribute] = {
            "values": len(values),
            "commonest": float(value),
            "paper_commonest": printed.qa.get(attribute) if printed else None,
            "first_word": float(word),
            "paper_first_word": printed.q_first.get(attribute) if printed else None,
        }
    return sizes


def pools_text(sizes: dict[str, dict[str, float | None]]) -> str:
    """The result of `pools` as text for a terminal; shares in %."""
    heads = {"commonest": "commonest", "paper_commonest": "(paper)"}
    heads |= {"first_word": "first word", "paper_first_word": "(paper)"}
    heads = {c: x for c, x in heads.items() if any(of[c] is not None for of in sizes.values())}
    width = max(13, *map(len, sizes))
    lines = [f"{'attribute':<{width}}  values  {'  '.join(heads.values())}"]
    for attribute, of in sizes.items():
        shares = {column: "" if of[column] is None else f"{of[column]:.1%}" for column in heads}
        cells = (f"{share:>{len(heads[column]) + 2}}" for column, share in shares.items())
        lines.append(f"{attribute:<{width}} {of['values']:>7}{''.join(cells)}")
    return "\n".join(lines)
