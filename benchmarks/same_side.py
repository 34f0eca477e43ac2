"""Runs the experiments of `benchmarks.same` with one checkout, and records what JAX is given.

    PYTHONPATH=CHECKOUT python -P benchmarks/same_side.py SPEC.json

`same.py` starts it, once a side. It imports nothing of `kstore_jax` but the entry point that the
checkout's pyproject.toml declares, and nothing of `benchmarks`. Into the folder `out` of the spec
go a folder for each sweep, `ir/` with every module that JAX compiled, and `events.jsonl`: in their
order the trees that an optimizer was initialised with, and the NumPy arrays that the package put on
a device.
"""

import hashlib
import importlib
import importlib.util
import json
import os
import pathlib
import sys
import tomllib
from collections.abc import Callable
from typing import Any, TextIO

_TEXTS = ("The first document. It has two sentences.", "The second document is about nobody.")


def main() -> int:
    spec = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    tree, out = pathlib.Path(spec["tree"]), pathlib.Path(spec["out"])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {spec["core"]})
    os.chdir(out)
    _write_texts(out / "text")
    command = _entry_point(tree)
    with (out / "events.jsonl").open("w", encoding="utf-8") as events:
        _record(events)
        for name, sweep in spec["sweeps"].items():
            config = out / f"{name}_config.py"
            config.write_text(
                _config_file(tree, sweep, spec["fields"], spec["moved"]), encoding="utf-8"
            )
            sys.argv = ["kstore", *sweep["command"], f"--config={config}", f"--workdir={name}"]
            if status := command():
                return int(status)
    return 0


def _write_texts(folder: pathlib.Path) -> None:
    """Writes documents to mix in, with a fixed time, which is part of their fingerprint."""
    folder.mkdir()
    for i, text in enumerate(_TEXTS):
        (folder / f"{i}.txt").write_text(f"{text}\n" * 40, encoding="utf-8")
        os.utime(folder / f"{i}.txt", (0, 0))


def _entry_point(tree: pathlib.Path) -> Callable[[], int | None]:
    """Returns the function behind the command `kstore` of a checkout."""
    scripts = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "scripts"
    ]
    module, _, function = scripts["kstore"].partition(":")
    package = importlib.import_module(module.partition(".")[0])
    found = pathlib.Path(package.__path__[0]).resolve()
    if not found.is_relative_to(tree.resolve()):
        raise SystemExit(f"{package.__name__}: expected it from {tree}, found it in {found}")
    return getattr(importlib.import_module(module), function)


def _config_file(
    tree: pathlib.Path, sweep: dict[str, Any], renamed: dict[str, str], moved: dict[str, str]
) -> str:
    """Returns the text of a configuration file: that of the checkout with fields and rows set."""
    file, arguments = str(tree / sweep["config"]), [*filter(None, [sweep.get("argument")])]
    config = _loaded(file, arguments)
    fields = [*translate(config, sweep["fields"], renamed, moved)]
    lines = [
        "import importlib.util",
        "def get_config():",
        f"    spec = importlib.util.spec_from_file_location('base_config', {file!r})",
        "    module = importlib.util.module_from_spec(spec)",
        "    spec.loader.exec_module(module)",
        f"    config = module.get_config(*{arguments!r})",
        *(f"    config.{field} = {value!r}" for field, value in fields),
    ]
    if "rows" in sweep:
        rows = tuple(
            (("name", name), *translate(config, {**sweep["fields"], **row}, renamed, moved, row))
            for name, row in sweep["rows"].items()
        )
        lines.append(f"    config.sweep = {rows!r}")
    return "\n".join([*lines, "    return config", ""])


def _loaded(file: str, arguments: list[str]) -> Any:
    found = importlib.util.spec_from_file_location("base_config", file)
    if found is None or found.loader is None:
        raise SystemExit(f"{file}: expected a configuration file")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module.get_config(*arguments)


def translate(
    config: Any,
    fields: dict[str, Any],
    renamed: dict[str, str],
    moved: dict[str, str],
    only: Any = None,
) -> list[tuple[str, Any]]:
    """Returns the fields with the names that `config` has, new or old, and their values.

    Args:
      config: a mapping of sections, each a mapping of fields.
      fields: dotted new name -> value.
      renamed: old name -> new name, without the section.
      moved: old dotted name of a section or field -> new.
      only: the names to return; all where it is None.

    Raises:
      SystemExit: `config` has a field under neither name.
    """
    heads = fields.get("model.heads", config["model"]["heads"])
    found = []
    for field in fields if only is None else only:
        path, there = _resolve(config, field, renamed, moved)
        value = _translated_value(there, path[-1], fields[field], renamed, heads)
        found.append((".".join(path), value))
    return found


def _resolve(
    config: Any, field: str, renamed: dict[str, str], moved: dict[str, str]
) -> tuple[list[str], Any]:
    """Returns the path of a field in a configuration, under its new or an old name, and its
    section."""
    names = [field]
    names += [
        old + field[len(new) :] for old, new in moved.items() if f"{field}.".startswith(f"{new}.")
    ]
    for one in names:
        *sections, name = one.split(".")
        there = config
        for section in sections:
            there = there[section] if there is not None and section in there else None
        own = [old for old in (name, *_old_names(name, renamed)) if there and old in there]
        if own:
            return [*sections, own[0]], there
    raise SystemExit(f"{field}: the configuration has no such field, nor an old one for it")


def _old_names(name: str, renamed: dict[str, str]) -> list[str]:
    return [old for old, new in renamed.items() if new == name]


def _translated_value(there: Any, name: str, value: Any, renamed: dict[str, str], heads: int):
    if name == "grid":
        return tuple(
            tuple((_resolve(there, field, renamed, {})[0][0], one) for field, one in row.items())
            for row in value
        )
    if name == "group":  # the old name of `num_kv_heads`, which it divides the heads by
        return heads // value
    return value


def _record(events: TextIO) -> None:
    """Wraps what both layouts call: optimizers' `init`, and how arrays come to a device."""
    import jax
    import jax.core
    import numpy as np
    import optax

    def write(kind: str, arrays: list) -> None:
        with jax.transfer_guard("allow"):
            digests = [_digest(np.asarray(array)) for array in arrays]
        events.write(json.dumps({"kind": kind, "arrays": digests}) + "\n")
        events.flush()

    def wrapped_chain(chain: Callable) -> Callable:
        def recorded(*transformations):
            whole = chain(*transformations)

            def init(params):
                leaves = jax.tree.leaves(params)
                if not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
                    write("initial", leaves)
                return whole.init(params)

            return whole._replace(init=init)

        return recorded

    def wrapped_put(put: Callable) -> Callable:
        def recorded(x, *args, **more):
            leaves = jax.tree.leaves(x)
            arrays = [leaf for leaf in leaves if isinstance(leaf, np.ndarray)]
            if arrays and _caller() == "kstore_jax":
                write("batch", arrays)
            return put(x, *args, **more)

        return recorded

    def wrapped_local(make: Callable) -> Callable:
        def recorded(sharding, local_data, *args, **more):
            write("batch", jax.tree.leaves(local_data))
            return make(sharding, local_data, *args, **more)

        return recorded

    optax.chain = wrapped_chain(optax.chain)
    jax.device_put = wrapped_put(jax.device_put)
    jax.make_array_from_process_local_data = wrapped_local(jax.make_array_from_process_local_data)


def _caller() -> str:
    """Returns the package that called JAX; Orbax does, too, from threads and in any order."""
    frame = sys._getframe(2)
    while frame and frame.f_globals.get("__name__", "").partition(".")[0] == "jax":
        frame = frame.f_back
    return frame.f_globals.get("__name__", "").partition(".")[0] if frame else ""


def _digest(array: Any) -> list:
    """Returns [type, shape, SHA-256 of the bytes]."""
    content = hashlib.sha256(array.tobytes()).hexdigest()
    return [str(array.dtype), list(array.shape), content]


if __name__ == "__main__":
    sys.exit(main())
