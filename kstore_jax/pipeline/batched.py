"""Populations: rows of a sweep whose models are pretrained in one program."""

import contextlib
import functools
import gc
import sys
from collections.abc import Hashable, Mapping, Sequence

from kstore_jax.errors import in_a_line
from kstore_jax.pipeline.lab import Lab
from kstore_jax.pipeline.stages import Stage
from kstore_jax.train.fit import fit_together
from kstore_jax.train.optimizer import without_dials


def pretrain_together(labs: Sequence[Lab], together: int) -> None:
    """Pretrains up to `together` models at a time in one program, each into its own stage.

    Which are together depends on the rows alone, not on what is done. Those that are like no other,
    that somebody else is at, or of which one fails, are left to `Lab.run`.

    Raises:
      Stopped: a process of the run got SIGTERM; checkpoints were written.
    """
    once = {lab.pretrain.folder: lab for lab in labs}.values()
    if together == 1 or all(lab.cache.result(lab.pretrain) is not None for lab in once):
        return
    alike: dict[Hashable, list[Lab]] = {}
    for lab in once:
        with contextlib.suppress(Exception):  # `Lab.run` comes to it again
            for parent in lab.pretrain.parents:
                lab.cache.ensure(parent)
            alike.setdefault(program(lab), []).append(lab)
    for rows in alike.values():
        for first in range(0, len(rows), together):
            if len(group := rows[first : first + together]) > 1:
                gc.collect()  # frees the parameters of the group before, as between rows
                fresh = [Lab(lab.experiment, lab.cache) for lab in group]
                members = {lab.pretrain: lab for lab in fresh}
                compute = functools.partial(_pretrain, members)
                try:
                    group[0].cache.ensure_together([*members], compute)
                except Exception as error:
                    said = f"{in_a_line(error)}; those pretrained with it go on one by one"
                    print(f"note: {said}", file=sys.stderr)


def _pretrain(members: Mapping[Stage, Lab], stages: Sequence[Stage]) -> list[dict]:
    """Pretrains the models of some stages; returns what each found."""
    labs = [members[stage] for stage in stages]
    lanes = [lab.pretraining(lab.cache.folder(lab.pretrain)) for lab in labs]
    fit_together(lanes, labs[0].mesh)
    return [lab.pretraining_result for lab in labs]


def program(lab: Lab) -> Hashable:
    """What pretrainings that one program can compute agree on."""
    masked = lab.vocabulary.ids.tobytes() if lab.mask is not None else b""
    return lab.shape, without_dials(lab.experiment.pretrain), lab.experiment.mesh, masked
