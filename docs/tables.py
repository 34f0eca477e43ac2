"""Prints the tables of `results.md` that are made from the files in `docs/results`: run
`python docs/tables.py`.

`docs/results/NAME` has the `results.json` of a run, without the losses of its trainings, and
`row-N/READOUT.npz`, the cases of row N. `python docs/tables.py RUN NAME` copies a run there.
"""

import json
import pathlib
import shutil
import statistics
import sys
from collections.abc import Iterable, Iterator
from typing import Any

FOLDER = pathlib.Path(__file__).parent / "results"


def rows(name: str) -> list[dict[str, Any]]:
    """The rows of `results.json` of a run."""
    return json.loads((FOLDER / name / "results.json").read_text(encoding="utf-8"))["rows"]


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def mean(shares: Iterable[float]) -> float:
    return statistics.fmean(shares)


def quickstart() -> list[list[str]]:
    """The quickstart on four seeds."""
    lines = []
    for seed in (0, 5, 6, 8):
        for row in rows(f"quickstart-{seed}"):
            read = row["readouts"]
            qa = read["qa"]["extraction"]
            first = (read[probe]["first"].values() for probe in ("p_probe", "q_probe"))
            shares = (
                read["recall"]["whole"]["mean"],
                qa["train"]["exact"]["mean"],
                *(qa["test"]["exact"][name] for name in ("mean", *row["attributes"])),
                qa["baseline"]["mean"],
                *(mean(cells[0] for cells in each) for each in first),
                mean(read["q_probe"]["baseline"]["first"].values()),
            )
            dataset = row["config"]["data"]["variant"]
            lines.append([dataset, str(seed), *map(percent, shares)])
            attributes = [name.replace("_", " ") for name in row["attributes"]]
    heads = ["dataset", "seed", "recited", "trained half", "held-out mean", *attributes]
    heads += ["majority guess", "P-probe, position 0", "Q-probe", "probe's majority guess"]
    return [heads, *sorted(lines)]


def finetuned(row: dict[str, Any]) -> list[str]:
    """The answers about the trained half, and about people held out with their interval."""
    qa, path = row["readouts"]["qa"]["extraction"], ("extraction", "test", "exact", "mean")
    interval = row["intervals"]["qa"]
    for name in path:
        interval = interval[name]
    ends = " to ".join(percent(interval[end]) for end in ("low", "high"))
    held_out = f"{percent(qa['test']['exact']['mean'])} ({ends})"
    return [percent(qa["train"]["exact"]["mean"]), held_out]


def of_grid(row: dict[str, Any]) -> str:
    """The chosen row of the grid of a finetuning."""
    (chosen,) = (each for each in row["finetune_grid"] if each["chosen"])
    fields = (f"{name.replace('_', ' ')} {chosen[name]:g}" for name in chosen if name in _GRID)
    return ", ".join(fields)


_GRID = ("rank", "embedding_rank", "learning_rate", "weight_decay")


def comparison() -> list[list[str]]:
    """LoRA and full finetuning, each the best of six, on three seeds."""
    heads = ["dataset", "seed", "weights", "chosen", "trained half", "held out"]
    lines = [heads]
    for seed in (1, 2, 3):
        for row in rows(f"finetuning-{seed}"):
            if row["finetune_grid"]:
                name = row["name"].partition(",")[0]
                dataset = row["config"]["data"]["variant"]
                lines.append([dataset, str(seed), name, of_grid(row), *finetuned(row)])
    return [heads, *sorted(lines[1:], key=lambda line: (line[0], line[2], line[1]))]


def figure_2() -> list[list[str]]:
    """Ways of finetuning on `single`, none chosen: shares of three seeds."""
    found: dict[str, list[list[str]]] = {}
    for seed in (1, 2, 3):
        for row in rows(f"figure-2-{seed}"):
            found.setdefault(way(row["config"]["finetune"]), []).append(finetuned(row))
    heads = ["weights", "trained half, seeds 1, 2, 3", "held out, seeds 1, 2, 3"]
    lines = [
        [name, ", ".join(each[0] for each in cells), ", ".join(each[1] for each in cells)]
        for name, cells in found.items()
    ]
    return [heads, *lines]


def way(finetune: dict[str, Any]) -> str:
    """What a finetuning trains, in words."""
    if finetune["method"] == "full":
        return f"all, learning rate {finetune['learning_rate']:g}"
    names = {-1: "whole", 0: "frozen"}
    rank, embedding_rank = finetune["rank"], finetune["embedding_rank"]
    of_embedding = names.get(embedding_rank, f"rank {embedding_rank}")
    return f"queries and values {names.get(rank, f'rank {rank}')}, embedding {of_embedding}"


def countries() -> list[list[str]]:
    """A table of countries, its facts written in several ways; three runs of one seed."""
    lines = []
    for name, model in _OF_COUNTRIES.items():
        for row in rows(name):
            qa, labels = row["readouts"]["qa"]["extraction"], row["attributes"]
            recited = percent(row["readouts"]["recall"]["whole"]["mean"])
            each = [percent(qa["test"]["exact"][name]) for name in labels]
            lines.append([model, row["name"], recited, *finetuned(row), *each])
            guess = [percent(qa["baseline"][name]) for name in ("mean", *labels)]
    heads = ["run", "read", "recites", "answers, trained half", "answers, held out"]
    return [[*heads, *labels.values()], *lines, ["majority guess", "", "", "", *guess]]


_OF_COUNTRIES = {
    "countries": "small model, AMD",
    "countries-2": "small model, Intel",
    "countries-gpt2": "random GPT-2, Intel",
}


def capacity() -> list[list[str]]:
    """Bits a parameter after 1,000 exposures, of rounded copies, and after 100 exposures."""
    heads = ["entries", "width", "parameters", "bits stored", "there are", "bits a parameter"]
    lines = [[*heads, "at most", "int8", "int4", "100 exposures"]]
    short = {size(row): rate(row["readouts"]["capacity"]) for row in rows("capacity-100")}
    for row in rows("capacity"):
        read = row["readouts"]["capacity"]
        counts = read["parameters"]["used"], read["learned"], read["most_learned"]
        copies = (rate(read["quantised"][name]) for name in ("int8", "int4"))
        rates = rate(read), read["bits_per_parameter"]["most"], *copies, short[size(row)]
        cells = (f"{round(number):,}" for number in (*size(row), *counts))
        lines.append([*cells, *(f"{number:.2f}" for number in rates)])
    return lines


def junk() -> list[list[str]]:
    """What junk costs in bits, and what a marker recovers."""
    heads, lines = ["read"], {}
    for seed in (0, 1):
        heads += [f"bits stored, seed {seed}", "there are"]
        for row in rows(f"junk-{seed}"):
            read = row["readouts"]["capacity"]
            counts = (f"{round(read[name]):,}" for name in ("learned", "most_learned"))
            lines.setdefault(row["name"], [row["name"]]).extend(counts)
    return [heads, *lines.values()]


def size(row: dict[str, Any]) -> tuple[int, int]:
    """The number of people of a row, and the width of its model."""
    return row["config"]["world"]["people"], row["config"]["model"]["width"]


def rate(read: dict[str, Any]) -> float:
    """Bits by the parameters used."""
    return read["bits_per_parameter"]["used"]


def stored() -> list[list[str]]:
    """Bits and answers of the quickstart, three seeds."""
    lines = []
    for seed in (5, 6, 8):
        for row in rows(f"quickstart-{seed}"):
            read = row["readouts"]
            bits, most = (
                read["capacity"][name] / read["capacity"]["people"]
                for name in ("learned", "most_learned")
            )
            answers = read["qa"]["extraction"]["test"]["exact"]["mean"]
            shares = map(percent, (read["recall"]["whole"]["mean"], answers))
            dataset = row["config"]["data"]["variant"]
            lines.append([dataset, str(seed), f"{bits:.1f}", f"{most:.1f}", *shares])
    heads = ["dataset", "seed", "bits a person", "there are", "recited", "held out"]
    return [heads, *sorted(lines)]


def probing() -> list[list[str]]:
    """The laptop's probes and the paper's, just before the first attribute and after the name."""
    lines = []
    for row in (*rows("probing-0"), *rows("probing-names-0")):
        names = row["config"]["world"]["name_fraction"]
        for name, probe in (("P", "p_probe"), ("Q", "q_probe")):
            read = row["readouts"][probe]
            training, attributes = read["training"], row["attributes"]
            whole = read["whole"].values()
            shares = [cells[0] for cells in read["first"].values()]
            lines.append(
                [
                    f"{names:g}",
                    row["config"]["data"]["variant"],
                    f"{row['name'].partition(',')[0]}, {name}",
                    *map(percent, (mean(shares), *shares)),
                    percent(mean(read["baseline"]["first"].values())),
                    percent(mean(cells[0] for cells in whole)) if whole else "",
                    percent(mean(read["baseline"]["whole"].values())) if whole else "",
                    *(f"{training['loss'][part][-1]:.2f}" for part in ("held_back", "trained")),
                    "yes" if training["still_improving"] else "no",
                ]
            )
    attributes = [name.replace("_", " ") for name in attributes]
    heads = ["names used", "dataset", "probe", "first tokens", *attributes, "guess", "whole values"]
    heads += ["guess", "loss, held back", "loss, trained people", "still improving"]

    def order(line: list[str]) -> tuple[float, str, str, str]:
        return -float(line[0]), line[1], line[2][-1], line[2]

    return [heads, *sorted(lines, key=order)]


def mixed() -> list[list[str]]:
    """Questions mixed into pretraining on `single`, and models finetuned afterwards."""
    lines = []
    for name in _MIXED:
        for row in rows(name):
            config, read = row["config"], row["readouts"]
            answers = read["qa"]["extraction"]["test"]["exact"]
            share, of_world = config["data"]["qa_share"], config["world"]["seed"]
            people_of = "" if of_world == config["seed"] else f", people of seed {of_world}"
            lines.append(
                [
                    f"{config['world']['people']:,}",
                    f"{config['seed']}{people_of}",
                    f"{share:g} of the windows" if share else "finetuned afterwards",
                    percent(read["recall"]["whole"]["mean"]),
                    *finetuned(row),
                    *(percent(answers[name]) for name in row["attributes"]),
                    percent(read["qa"]["extraction"]["baseline"]["mean"]),
                ]
            )
            attributes = [name.replace("_", " ") for name in row["attributes"]]
    heads = ["people", "seed", "questions", "recited", "trained half", "held-out mean"]
    return [[*heads, *attributes, "majority guess"], *lines]


_MIXED = (
    "mixed-2",
    "mixed-alone-2",
    "mixed-1000-1-of-0",
    "mixed-1000-0-of-1",
    "mixed-1000-1",
    "mixed-0.8-0",
)


def of_seeds(task: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of both seeds of a task, each with its seed."""
    yield from ((seed, row) for seed in (0, 1) for row in rows(f"{task}-{seed}"))


def answered(task: str, *mixed: str) -> list[list[str]]:
    """The answers to each question of a task about people held out, exact with their interval and
    by first tokens, a column a dataset and seed.

    Args:
      mixed: further results, of seed 0, with the questions mixed into pretraining.
    """
    columns: dict[str, dict[str, str]] = {}
    for seed, row in (*of_seeds(task), *((0, row) for name in mixed for row in rows(name))):
        qa, interval = row["readouts"]["qa"][task]["test"], row["intervals"]["qa"][task]["test"]
        dataset = row["config"]["data"]["variant"]
        how = ", mixed" if row["config"]["data"]["qa_share"] else ""
        columns[f"{dataset}{how}, seed {seed}"] = {
            name: f"{percent(share)} ({percent(interval['exact'][name]['low'])} to "
            f"{percent(interval['exact'][name]['high'])}), {percent(qa['first'][name])}"
            for name, share in qa["exact"].items()
        }
    names = [*columns[min(columns)]]
    lines = [[name.replace("_", " "), *(of[name] for of in columns.values())] for name in names]
    return [["question", *columns], *lines]


def retrieval() -> list[list[str]]:
    return answered("retrieval")


def inverse() -> list[list[str]]:
    return answered("inverse", "inverse-mixed-0")


def with_hints(task: str) -> list[list[str]]:
    """The answers to each question of a task, trained by itself without hints and with them, about
    ever more people."""
    lines: dict[tuple[str, ...], dict[int, tuple[str, ...]]] = {}
    for seed, row in of_seeds(task):
        qa = row["readouts"]["qa"][task]
        trained = "with hints" if row["config"]["tasks"][task]["hints"] else "without"
        half = row["config"]["world"]["people"] // 2
        people = round(half * row["config"]["finetune"].get("people_fraction", 1.0))
        for name, interval in row["intervals"]["qa"][task]["test"]["exact"].items():
            if name == "mean":
                continue
            hint = qa["test"].get("hint", {}).get(name)
            shares = qa["test"]["exact"][name], interval["low"], interval["high"]
            right = "{} ({} to {})".format(*map(percent, shares))
            cells = right, "" if hint is None else percent(hint), percent(qa["baseline"][name])
            key = name.replace("_", " "), trained, f"{people}"
            lines.setdefault(key, {})[seed] = cells
    heads = ["question", "trained", "people trained"]
    for seed in (0, 1):
        heads += [f"seed {seed}", "hints right", "guess"]
    absent = ("", "", "")
    return [
        heads,
        *([*key, *of.get(0, absent), *of.get(1, absent)] for key, of in lines.items()),
    ]


def classification() -> list[list[str]]:
    return with_hints("classification")


def comparison_of_people() -> list[list[str]]:
    return with_hints("comparison")


def markdown(table: list[list[str]]) -> str:
    heads, *lines = table
    rule = "|" + "---|" * len(heads)
    cells = [f"| {' | '.join(line)} |" for line in (heads, *lines)]
    return "\n".join([cells[0], rule, *cells[1:]])


def copy(run: pathlib.Path, name: str) -> None:
    """Copies the results of a run, without the losses of its trainings, and the cases of each row
    and readout."""
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    plan = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    slim = {"schema": results["schema"], "rows": []}
    for number, (row, planned) in enumerate(zip(results["rows"], plan["rows"], strict=True)):
        slim["rows"].append({**row, "losses": [], "evaluations": []})
        for stage in planned["stages"]:
            cases = run / plan["cache"] / stage / "cases.npz"
            if cases.exists():
                path = FOLDER / name / f"row-{number}" / f"{stage.partition('-')[0]}.npz"
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(cases, path)
    text = json.dumps(slim, allow_nan=False) + "\n"
    (FOLDER / name / "results.json").write_text(text, encoding="utf-8")


TABLES = (
    *(quickstart, probing, mixed, comparison, figure_2, countries, capacity, junk, stored),
    *(retrieval, inverse, classification, comparison_of_people),
)
"""Makes each table of `results.md`."""


if __name__ == "__main__":
    if sys.argv[1:]:
        copy(pathlib.Path(sys.argv[1]), sys.argv[2])
    else:
        for table in (draw() for draw in TABLES):
            print(markdown(table), end="\n\n")
