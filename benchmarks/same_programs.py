"""Compares the modules that JAX compiled on two sides, whatever their functions are called.

A program that donates an argument is a training step. The text is normalised: locations and names
of arguments go, and symbols are numbered in the order in which they appear.
"""

import hashlib
import pathlib
import re
from collections.abc import Iterator

SMALL_LINES = 40  # a program of fewer lines is an operation outside of any `jit` of the code base
_MOST = 4  # programs that are listed

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_IN_BRACKETS = rf'(?:[^()"]|{_QUOTED})*'
for _ in range(4):  # as deep as locations of calls are nested
    _IN_BRACKETS = rf'(?:[^()"]|{_QUOTED}|\({_IN_BRACKETS}\))*'
_LOCATION = re.compile(rf" ?\bloc\({_IN_BRACKETS}\)")
_LOCATION_LINE = re.compile(r"^#loc.*\n", re.MULTILINE)
_NAMES = re.compile(rf"jax\.(result_info|arg_info) = {_QUOTED}")
_SYMBOL = re.compile(rf"(?<!custom_call )@(\w[\w.$-]*|{_QUOTED})")
_FUNCTION = re.compile(r"^ *func\.func private @(s\d+)\(.*?^  }$", re.MULTILINE | re.DOTALL)
_FUNCTION_NAME = re.compile(r"@(s\d+)\b")
_VALUE = re.compile(r"%[\w#:]+")
_TOKEN = re.compile(r"[\w.+-]+|[^\w\s]")


def normalise(text: str) -> str:
    """Returns the text of a module without locations and names of functions and arguments."""
    text = _LOCATION.sub("", _LOCATION_LINE.sub("", text))
    text = _NAMES.sub(r'jax.\1 = ""', text)
    symbols: dict[str, str] = {}
    return _SYMBOL.sub(lambda m: "@" + symbols.setdefault(m[1], f"s{len(symbols)}"), text)


def unordered(text: str) -> str:
    """Returns the operations of a normalised module, sorted, without the names of values; functions
    are named by what they compute.

    Two modules that differ in the order of arguments, results and independent operations alone have
    the same.
    """
    content = {
        m[1]: hashlib.sha256(_sorted_lines(_FUNCTION_NAME.sub("@", m[0])).encode()).hexdigest()
        for m in _FUNCTION.finditer(text)
    }
    return _sorted_lines(_FUNCTION_NAME.sub(lambda m: f"@{content.get(m[1], m[1])}", text))


def _sorted_lines(text: str) -> str:
    lines = (" ".join(sorted(_TOKEN.findall(_VALUE.sub("%", line)))) for line in text.splitlines())
    return "\n".join(sorted(lines))


def is_training_step(text: str) -> bool:
    return "tf.aliasing_output" in text or "jax.buffer_donor" in text


def compare_programs(base: dict[str, str], tree: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Compares the modules of two sides as sets.

    Args:
      base, tree: file name -> text of a module, as `read_programs` returns them.

    Yields: (`equal`, `note` or `difference`, line).
    """
    sides = [{normalise(text): name for name, text in side.items()} for side in (base, tree)]
    steps = [{text for text in side if is_training_step(text)} for side in sides]
    if not all(steps):
        yield "difference", f"training steps: {len(steps[0])} in the base, {len(steps[1])} here"
    elif steps[0] == steps[1]:
        yield "equal", f"lowered text of {len(steps[0])} training steps"
    else:
        yield from _compare_steps(sides, steps)
    others = [side.keys() - of_steps for side, of_steps in zip(sides, steps, strict=True)]
    large = [{text for text in texts if text.count("\n") >= SMALL_LINES} for texts in others]
    yield "equal", f"lowered text of {len(large[0] & large[1])} other programs"
    for side, only, where in zip(
        sides, (large[0] - large[1], large[1] - large[0]), ("base", "tree"), strict=True
    ):
        if names := [side[text].removesuffix("_compile") for text in only]:
            many = f"{len(names)} programs, no training steps, of the {where} alone"
            yield "note", f"{many}: {_listed(names)}"
    if small := len((others[0] ^ others[1]) - large[0] - large[1]):
        yield "note", f"{small} programs of fewer than {SMALL_LINES} lines are on one side alone"


def _compare_steps(sides: list[dict[str, str]], steps: list[set[str]]) -> Iterator[tuple[str, str]]:
    """Compares training steps that are not the same set."""
    if same := steps[0] & steps[1]:
        yield "equal", f"lowered text of {len(same)} training steps"
    left = [
        {unordered(text): text for text in sorted(of_side - same, key=side.__getitem__)}
        for side, of_side in zip(sides, steps, strict=True)
    ]
    if reordered := left[0].keys() & left[1].keys():
        many = f"lowered text of {len(reordered)} training steps"
        yield "equal", f"{many}, except the order of arguments, results and operations"
    only = [[t for key, t in of.items() if key not in reordered] for of in left]
    pairs = [*zip(*only, strict=False)]
    for theirs, ours in pairs[:_MOST]:
        at, lines = _first_difference(theirs, ours)
        names = f"{sides[0][theirs]} (base), {sides[1][ours]} (tree)"
        yield (
            "difference",
            f"training step: {names}, line {at}:\n    - {lines[0]}\n    + {lines[1]}",
        )
    if len(pairs) > _MOST:
        yield "difference", f"{len(pairs) - _MOST} more training steps"
    for side, texts, where in zip(sides, only, ("base", "tree"), strict=True):
        if names := [side[text].removesuffix("_compile") for text in texts[len(pairs) :]]:
            yield (
                "difference",
                f"{len(names)} training steps of the {where} alone: {_listed(names)}",
            )


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(sorted(names)[:_MOST]) + rest


def _first_difference(base: str, tree: str) -> tuple[int, tuple[str, str]]:
    """Returns number and text of the first lines that differ, cut to where they do."""
    texts = [*base.splitlines(), ""], [*tree.splitlines(), ""]
    for number, (a, b) in enumerate(zip(*texts, strict=False), 1):
        if a != b:
            first = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), 0)
            start = max(0, first - 60)
            return number, (a[start : first + 60].strip(), b[start : first + 60].strip())
    return min(map(len, texts)), ("", "")


def read_programs(folder: pathlib.Path) -> dict[str, str]:
    """Reads every module that JAX dumped into a folder."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.mlir"))}
