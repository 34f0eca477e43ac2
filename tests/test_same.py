"""`benchmarks.same`: names and locations do not count, an operation or a number does."""

import pytest

from benchmarks import same_side, same_tables
from benchmarks.same_compare import compare_events, compare_values, renamed
from benchmarks.same_programs import compare_programs, normalise, unordered

STEP = """#loc1 = loc("state['weights']")
module @jit_train_steps attributes {mhlo.num_partitions = 1 : i32} {
  func.func public @main(%arg0: tensor<4xf32> {tf.aliasing_output = 0 : i32} loc("state['w'](x)"), \
%arg1: tensor<2xf32>) -> (tensor<4xf32> {jax.result_info = "result[0]['w']"}) {
    %0 = call @_where(%arg0) : (tensor<4xf32>) -> tensor<4xf32> loc(callsite(#loc3 at #loc1))
    %1 = stablehlo.custom_call @Sharding(%0) : (tensor<4xf32>) -> tensor<4xf32> loc(#loc)
    return %1 : tensor<4xf32>
  }
  func.func private @_where(%arg0: tensor<4xf32>) -> tensor<4xf32> {
    %cst = stablehlo.constant dense<1.000000e-06> : tensor<4xf32> loc(unknown)
    return %cst : tensor<4xf32>
  }
}
#loc3 = loc("fit.py":3:4 to :9)
"""
RENAMED = (
    STEP.replace("train_steps", "step").replace("_where", "_select").replace("['w']", "['params']")
)


def verdicts(base: str, tree: str) -> list[str]:
    return [verdict for verdict, _ in compare_programs({"a": base}, {"b": tree})]


def test_names_and_locations_of_a_program_do_not_count():
    assert normalise(STEP) == normalise(RENAMED)
    assert "loc(" not in normalise(STEP)
    assert "@Sharding" in normalise(STEP)
    assert set(verdicts(STEP, RENAMED)) == {"equal"}


def test_a_constant_of_a_training_step_counts():
    assert "difference" in verdicts(STEP, RENAMED.replace("1.000000e-06", "1.000000e-05"))
    assert "difference" in verdicts(STEP, "module @jit_add {}")


def test_the_order_of_arguments_does_not_count():
    swapped = "%arg0: tensor<2xf32>, %arg1: tensor<4xf32> {tf.aliasing_output = 0 : i32}"
    start, end = STEP.index("%arg0"), STEP.index(") -> (tensor")
    text = STEP[:start] + swapped + STEP[end:].replace("@_where(%arg0) :", "@_where(%arg1) :")
    assert normalise(text) != normalise(STEP)
    assert unordered(normalise(text)) == unordered(normalise(STEP))
    assert set(verdicts(STEP, text)) == {"equal"}


def test_the_order_of_independent_calls_does_not_count_and_what_they_call_does():
    call = "    %0 = call @_where(%arg0) : (tensor<4xf32>) -> tensor<4xf32>\n"
    other = call.replace("%0", "%9").replace("_where", "_add")
    end = "}\n#loc3"
    function = STEP[STEP.index("  func.func private") : STEP.index(end)].replace("_where", "_add")
    changed = function.replace("1.000000e-06", "2.000000e+00")
    both, swapped, twice = (
        STEP.replace("    %1 =", f"{first}{second}    %1 =").replace(end, changed + end)
        for first, second in ((call, other), (other, call), (call, call))
    )
    assert normalise(both) != normalise(swapped)
    assert set(verdicts(both, swapped)) == {"equal"}
    assert "difference" in verdicts(both, twice)


def test_values_are_compared_under_their_new_names(monkeypatch):
    monkeypatch.setattr(same_tables, "RESULTS", {"*.qa": "*.qa_test", "row.old": "row.new.part"})
    assert renamed("row.qa.mean", same_tables.RESULTS) == "row.qa_test.mean"
    base = {"qa": {"mean": 0.5}, "old": [1], "seconds": 3}
    tree = {"qa_test": {"mean": 0.5}, "new": {"part": [1]}, "seconds": 4}
    assert compare_values(base, tree, "row") == (2, [])
    assert len(compare_values(base, {**tree, "qa_test": {"mean": 0.6}}, "row")[1]) == 1
    only = compare_values({**base, "a": 0}, {**tree, "b": 1, "c": {}}, "row")[1]
    assert [line.partition(";")[0] for line in only] == [
        "row.a: in the base alone",
        "row.b: in the tree alone",
    ]


def test_arrays_that_were_recorded_count_and_have_to_be_there():
    first, batch = ["float32", [2], "aa"], ["int32", [1, 2], "bb"]
    events = [{"kind": "initial", "arrays": [first]}, {"kind": "batch", "arrays": [batch]}]
    assert {verdict for verdict, _ in compare_events(events, events)} == {"equal"}
    for other in (events[:1], [events[0], {"kind": "batch", "arrays": [["int32", [1, 2], "c"]]}]):
        assert [verdict for verdict, _ in compare_events(events, other)] == ["equal", "difference"]


def test_a_side_gets_the_names_it_has():
    moved = {"qa": "readouts.qa"}
    fields = {"model.num_kv_heads": 2, "finetune.grid": [{"batch_size": 8}], "seed": 1}
    fields["readouts.qa.beam_size"] = 4
    new = {"seed": 0, "model": {"heads": 8, "num_kv_heads": 8}, "finetune": {"batch_size": 4}}
    old = {"seed": 0, "model": {"heads": 8, "group": 1}, "finetune": {"batch": 4}}
    new["readouts"], old["qa"] = {"qa": {"beam_size": 1}}, {"beam": 1}
    for config in (new, old):
        config["finetune"]["grid"] = ()
    assert same_side.translate(new, fields, same_tables.FIELDS, moved) == [
        ("model.num_kv_heads", 2),
        ("finetune.grid", ((("batch_size", 8),),)),
        ("seed", 1),
        ("readouts.qa.beam_size", 4),
    ]
    assert same_side.translate(old, fields, same_tables.FIELDS, moved) == [
        ("model.group", 4),
        ("finetune.grid", ((("batch", 8),),)),
        ("seed", 1),
        ("qa.beam", 4),
    ]
    with pytest.raises(SystemExit, match="no such field"):
        same_side.translate(new, {"model.depth": 2}, same_tables.FIELDS, moved)
