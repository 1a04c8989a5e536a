#!/usr/bin/python3
"""Golden trajectories: a model is trained under a plan and compared, number by number, with what PyTorch obtained (test/data/models).

    test/e2e/golden.py --list
    test/e2e/golden.py --sscc build/sscc --via run|mpirun CASE [--keep DIR]

Compared are five losses and the one after the last update, gradient norms, the gradients of the first step, the outputs of the first step, and
the final parameters and state where the golden run has them, with the tolerances of the model's train.json. Further, bytes sent and peak memory as the
run measured them must equal what `sscc check` says.
"""
import argparse
import os
import sys
import tempfile

from harness import MODELS, Findings, Subject, compare_gradients, compare_losses, compare_outputs, compare_parameters


def split(axis, over):
    return {"axis": axis, "split": over}


def batch(axes, data=1, micro_batches=1):
    """The batch of these inputs over the mesh axis dp and over time."""
    rules = [split(axis, "dp") for axis in axes if data > 1] + [split(axis, {"time": micro_batches}) for axis in axes if micro_batches != 1]
    return {"mesh": {"dp": data}, "transform": rules}


# Heads within attention; elsewhere the mesh axis is free for the sequence.
ULYSSES = {"axis": "*/Softmax:-3", "split": "cp", "within": ["/layers.*/attn/[RTMW]*", "/layers.*/attn/Softmax"]}
TENSOR = [split("layers.*.mlp.up.weight:1", "tp"), split("*/Softmax:-3", "tp")]


def gpt(schedule=None, vocabulary=False, micro_batches=1, **mesh):
    """The 4-layer decoder over any of the mesh axes pp, dp and tp."""
    rules = TENSOR * ("tp" in mesh) + [split("wte.weight:0", "tp")] * vocabulary + [split("input_ids:0", "dp")] * ("dp" in mesh)
    plan = {"mesh": mesh, "transform": rules + [split("input_ids:0", {"time": micro_batches})] * (micro_batches != 1)}
    if "pp" in mesh:
        layers = 4 // mesh["pp"]
        plan["assign"] = [{"stages": "pp", "cut_before": [f"/layers.{k * layers}/*" for k in range(1, mesh["pp"])]}]
        plan["order"] = {"schedule": schedule}
    return plan


def triplane(pp):
    return {"mesh": {"pp": pp}, "transform": [split("codes:0", {"time": 4})],
            "assign": [{"stages": "pp", "cut_before": [f"/layers.{k}/*" for k in range(1, pp)]}], "order": {"schedule": "1f1b"}}


def layer(k, axis, over):
    return {"axis": axis, "split": over, "within": {"layer": k}}


def zero(*stores, micro_batches=1):
    """Data over 4 ranks; what is stored in pieces."""
    rules = [each if isinstance(each, dict) else {each: "*", "store": {"split": "dp"}} for each in stores]
    plan = batch(["input_ids:0"], 4, micro_batches)
    return {**plan, "transform": plan["transform"] + rules}


def turns(place, order, *rules, micro_batches=4, **mesh):
    """Two stages of the 4-layer decoder, at several coordinates."""
    return {"mesh": mesh, "transform": [*rules, split("input_ids:0", {"time": micro_batches})],
            "assign": [{"stages": "pp", "cut_before": ["/layers.2/*"], "place": place}], "order": order}


def by(plan, *rules):
    """A plan with rules for its communication."""
    return {**plan, "communication": list(rules)}


def on_nodes(plan, per_node, nodes):
    """A plan for nodes with fast links within and slow ones between."""
    levels = [{"devices": per_node, "bytes_per_second": 1e11, "latency_seconds": 1e-7},
              {"devices": per_node * nodes, "bytes_per_second": 1e9, "latency_seconds": 1e-6}]
    return {**plan, "cluster": {"version": 1, "device": {"flops_per_second": {"f32": 1e12}, "memory_bytes_per_second": 2e11}, "levels": levels}}


ANY_LEGAL_PLAN = {
    "gpt.heads3": {"mesh": {"tp": 3}, "transform": TENSOR},
    "gpt.batch512": {"mesh": {"dp": 3}, "transform": [split("input_ids:0", {"over": "dp", "sizes": [5, 1, 2]})]},
    "gpt.contraction": {"mesh": {"tp": 2}, "transform": [{"ops": {"type": "MatMul"}, "dim": "k", "split": "tp"}]},
    "gpt.sequence4": {"mesh": {"cp": 4}, "transform": [split("input_ids:1", "cp")]},
    "gpt.ulysses4": {"mesh": {"cp": 4}, "transform": [ULYSSES, split("input_ids:1", "cp")]},
    "gpt.ulysses2.dp2": {"mesh": {"dp": 2, "cp": 2}, "transform": [ULYSSES, split("input_ids:1", "cp"), split("input_ids:0", "dp")]},
    "gpt.dp4.tp2": gpt(dp=4, tp=2),
    "gpt.sums_for_others": {"mesh": {"d": 5}, "transform": [{"ops": "/layers.1/mlp/down/MatMul", "dim": "k", "split": "tp"}],
                            "assign": [{"ops": "/layers.1/mlp/down/MatMul", "on": {"devices": "0..1", "mesh": {"tp": 2}}},
                                       {"ops": "/layers.1/mlp/down/Add", "on": {"devices": "2..4"}}]},
    "gpt.zigzag": {"mesh": {"cp": 2}, "transform": [split("input_ids:1", {"over": "cp", "deal": [0, 1, 1, 0]})]},
    "gpt.zigzag4": {"mesh": {"dp": 2, "cp": 4}, "transform": [split("input_ids:1", [{"over": "cp", "deal": [0, 1, 2, 3, 3, 2, 1, 0]}, "dp"])]},
    "gpt.ring": {"mesh": {"cp": 2}, "transform": [split("input_ids:1", "cp"),
                                                  {"axis": "*/Softmax:-1", "split": {"time": 2, "rotate": "cp"}, "within": "/layers.*/attn/*"}]},
    "gpt.uneven_time": {"mesh": {"d": 2}, "transform": [{"ops": "/layers.*/mlp/*", "dim": -1, "split": ["d", {"time": [3, 1]}]}]},
    "gpt.batch_sequence_heads": {"mesh": {"dp": 2, "cp": 2, "tp": 2},
                                 "transform": [*TENSOR, split("input_ids:0", "dp"), split("input_ids:1", "cp")]},
    "gpt.layers": {"mesh": {"d": 4}, "transform": [layer("0", "input_ids:0", "d"), layer("1", "*/Softmax:-3", "d"),
                                                   layer("1", "layers.1.mlp.up.weight:1", "d"), layer("2", "input_ids:1", "d"),
                                                   layer("3", "/layers.2/Add_1:-1", "d")]},
    "gpt.free": {"mesh": {"d": 3}, "transform": [split("input_ids:0", "d")],
                 "assign": [{"ops": "/layers.1/*", "on": 2}, {"ops": "/layers.2/attn/*", "on": 0}]},
    "gpt.pieces": {"mesh": {"d": 4}, "transform": [{"ops": {"layer": "0..1", "type": "MatMul"}, "dim": "m", "split": "d"}],
                   "assign": [{"ops": {"layer": "0..1", "type": "MatMul"}, "on": [3, 0, 0, 2]}]},
    "gpt.6": {"mesh": {"dp": 2, "tp": 3}, "transform": [*TENSOR, split("wte.weight:0", "tp"), split("input_ids:0", "dp")]},
    "gpt.12": {"mesh": {"pp": 2, "dp": 2, "tp": 3},
               "transform": [*TENSOR, split("input_ids:0", "dp"), split("input_ids:0", {"time": 2})],
               "assign": [{"stages": "pp", "cut_before": ["/layers.2/*"]}], "order": {"schedule": "1f1b"}},
    "gpt.stages2to3": {"transform": [*TENSOR, split("input_ids:0", "dp"), split("input_ids:0", {"time": 2})],
                       "assign": [{"stages": [{"devices": "0..1", "mesh": {"tp": 2}}, {"devices": [2, "3..4"], "mesh": {"dp": 3}}],
                                   "cut_before": ["/layers.2/*"]}], "order": {"schedule": "1f1b"}},
    "gpt.stages3to2to1": {"transform": [split("input_ids:1", "d"), split("input_ids:0", {"time": 4})],
                          "assign": [{"stages": [{"devices": "0..2"}, {"devices": "3..4"}, 5], "balance": "flops"}], "order": {"schedule": "gpipe"}},
    "gpt.timetable": {"mesh": {"pp": 2}, "transform": [split("input_ids:0", {"time": 4})],
                      "assign": [{"stages": "pp", "cut_before": ["/layers.2/*"]}],
                      "order": {"timetable": [["0F1", "0F0", "0F2", "0B1", "0F3", "0B0", "0B2", "0B3", "0U"],
                                              ["1F0", "1F1", "1B1", "1B0", "1F2", "1B2", "1F3", "1B3", "1U"]]}},
    "gpt.blocks": {"mesh": {"pp": 2}, "transform": [split("input_ids:0", {"time": 8})],
                   "assign": [{"stages": "pp", "cut_before": ["/layers.2/*"]}],
                   "order": {"blocks": [{"block": "0F0", "step": 0}, {"block": "1F0", "step": 1}, {"block": "0F1", "step": 1},
                                        {"block": "1B0", "step": 2, "span": 2}, {"block": "0B0", "step": 4, "span": 2}, {"block": "1F1", "step": 4},
                                        {"block": "0F2", "step": 6}, {"block": "1B1", "step": 5, "span": 2}, {"block": "0B1", "step": 7, "span": 2},
                                        {"block": "1F2", "step": 7}, {"block": "1B2", "step": 8, "span": 2}, {"block": "0B2", "step": 10, "span": 2}],
                             "repetend": [6, 9]}},
    "gpt.uneven_micro_batches": gpt("1f1b", pp=2, micro_batches=3),
    "gpt.sizes_of_micro_batches": gpt("gpipe", pp=2, tp=2, micro_batches=[1, 4, 1, 2]),
    "gpt.zero2.sizes": zero("state", "gradients", micro_batches=[2, 1, 1]) | {"mesh": {"dp": 2}},
    "gpt.cut_by_two_rules": {**gpt("1f1b", pp=2), "transform": [split("input_ids:0", {"time": [5, 3]}), split("labels:0", {"time": 2})]},
    "gpt.turns.uneven": turns([[0, 1], [1, 0]], {"schedule": "gpipe"}, pp=2, micro_batches=[3, 3, 2]),
    "gpt.turns": turns([[0, 1], [1, 0]], {"schedule": "gpipe"}, pp=2),
    "gpt.turns.1f1b": turns([[0, 1], 2], {"schedule": "1f1b"}, pp=3),
    "gpt.turns.timetable": turns([[0, 1], [1, 0]], {"timetable": [["0F0", "1F1", "1B1", "0B0", "0F2", "1F3", "1B3", "0B2"],
                                                                  ["0F1", "1F0", "1B0", "0B1", "0F3", "1F2", "1B2", "0B3"]]}, pp=2),
    "gpt.turns.tp2": turns([[0, 1, 1], [1, 0]], {"schedule": "gpipe"}, *TENSOR, pp=2, tp=2),
    "gpt.turns.zero2": turns([[0, 1], [1, 0]], {}, split("input_ids:0", "dp"), *({each: "*", "store": {"split": "dp"}} for each in ("gradients", "state")),
                             pp=2, dp=2),
    "gpt.zero1": {"mesh": {"dp": 4}, "transform": [split("input_ids:0", "dp"), {"ops": {"phase": "update"}, "dim": "d0", "split": "dp"}]},
    "gpt.zero1.store": zero("state"),
    "gpt.zero2": zero("state", "gradients", micro_batches=2),
    "gpt.store_at_places": {"mesh": {"pp": 2, "dp": 2}, "transform": [split("input_ids:0", "dp"), split("input_ids:0", {"time": 4}),
                                                                     {"state": "layers.0.*", "store": {"pp": 1}}, {"parameters": "wte*", "store": 3},
                                                                     {"gradients": "layers.1.*", "store": {"devices": "1..2"}},
                                                                     {"parameters": "layers.3.*", "store": {"devices": [2, 1], "mesh": {"dp": 2}}}],
                            "assign": [{"stages": "pp", "cut_before": ["/layers.2/*"]}], "order": {"schedule": "1f1b"}},
    "gpt.host.state": zero({"state": "*", "store": "host"}, {"ops": {"phase": "update"}, "dim": "d0", "split": "dp"}),
    "gpt.host.gradients": zero({"gradients": "*", "store": "host"}, "state", micro_batches=2),
    "gpt.host.parameters": zero("parameters", {"parameters": "*", "store": "host"}, micro_batches=2),
    "gpt.host.operators": {**gpt("1f1b", pp=2, tp=2, micro_batches=4), "assign": [*gpt("1f1b", pp=2, tp=2)["assign"],
                                                                                 {"ops": ["/wte/Gather", "/layers.1/mlp/*", "/MatMul"], "on": "host"}]},
    "gpt.zero3": zero("parameters"),
    "gpt.zero3.mb2": zero("parameters", micro_batches=2),
    "gpt.zero3.step": zero({"parameters": "*", "store": {"split": "dp", "gather": "step"}}, micro_batches=2),
    "gpt.zero3.tp2.pp2": {"mesh": {"pp": 2, "dp": 2, "tp": 2},
                          "transform": [*TENSOR, split("wte.weight:0", "tp"), split("input_ids:0", "dp"), split("input_ids:0", {"time": 4}),
                                        {"parameters": ["layers.*"], "store": {"split": "dp", "dim": -1}}, {"state": "w*", "store": {"split": "dp"}}],
                          "assign": [{"stages": "pp", "cut_before": ["/layers.2/*"]}], "order": {"schedule": "1f1b"}},
    "gpt.p2p": by(gpt(dp=2, tp=2), {"lowering": "p2p"}),
    "gpt.p2p.zero3": by(zero("parameters", micro_batches=2), {"lowering": "p2p"}),
    "gpt.collective": by(gpt("1f1b", micro_batches=4, pp=2, tp=2), {"lowering": "collective"}),
    "gpt.ring.dp4": by(gpt(dp=4), {"phase": "backward", "lowering": "ring"}),
    "gpt.ring.tp3": by({"mesh": {"tp": 3}, "transform": TENSOR}, {"over": "tp", "lowering": "ring"}),
    "gpt.ring.zero1": by(zero("state", micro_batches=2), {"lowering": "ring"}),
    "gpt.ring.zero3": by(zero("parameters"), {"phase": "forward", "lowering": "ring"}),
    "gpt.local_all_gather": by(gpt("1f1b", micro_batches=4, pp=2, dp=2, tp=2), *({"over": "stages", "phase": phase, "lowering": "local_all_gather"}
                                                                                for phase in ("forward", "dgrad")), {"tensor": "loss", "lowering": "auto"}),
    "gpt.broadcast.stages": by(gpt("1f1b", micro_batches=4, pp=2, tp=2), {"from": 0, "to": 1, "phase": "forward", "lowering": "broadcast"}),
    "gpt.broadcast.stored": by({"mesh": {"dp": 3}, "transform": [split("input_ids:0", "dp"), {"parameters": "layers.*", "store": 1}]},
                               {"tensor": "layers.*", "phase": "forward", "lowering": "broadcast"}),
    "gpt.nodes.dp4": on_nodes(gpt(dp=4), 2, 2),
    "gpt.nodes.dp2.tp2": on_nodes(gpt(dp=2, tp=2), 2, 2),
    "gpt.nodes.zero2": on_nodes(zero("state", "gradients", micro_batches=2), 2, 2),
}

CASES = {
    "mlp.1": ("mlp", {}),
    "mlp.dp4": ("mlp", batch(["x:0"], 4)),
    "gpt.1": ("gpt", {}),
    **{f"gpt.dp{n}": ("gpt", gpt(dp=n)) for n in (2, 4, 8)},
    **{f"gpt.tp{n}": ("gpt", gpt(tp=n)) for n in (2, 4)},
    "gpt.tp2.vocabulary": ("gpt", gpt(vocabulary=True, tp=2)),
    **{f"gpt.pp{p}.{s}.mb{m}": ("gpt", gpt(s, micro_batches=m, pp=p)) for p in (2, 4) for s in ("gpipe", "1f1b") for m in (4, 8)},
    "gpt.dp2.tp2.pp2": ("gpt", gpt("1f1b", vocabulary=True, micro_batches=4, pp=2, dp=2, tp=2)),
    "mlp.columns": ("mlp", {"mesh": {"tp": 2}, "transform": [{"ops": {"type": "Gemm"}, "dim": "n", "split": "tp"}]}),
    "mlp.contraction": ("mlp", {"mesh": {"tp": 2}, "transform": [{"ops": {"type": "Gemm"}, "dim": "k", "split": "tp"}]}),
    "triplane_ar.dp2.mb2": ("triplane_ar", batch(["codes:0"], 2, 2)),
    "triplane_ar.tp2": ("triplane_ar", {"mesh": {"tp": 2}, "transform": TENSOR}),
    "triplane_ar.pp3": ("triplane_ar", triplane(3)),
    "resnet_bn.1": ("resnet_bn", {}),
    "resnet_bn.dp4": ("resnet_bn", batch(["images:0"], 4)),
    "resnet_bn.space2.dp2": ("resnet_bn", {"mesh": {"dp": 2, "sp": 2}, "transform": [split("images:0", "dp"), split("images:2", "sp")]}),
    "resnet_bn.rows2.columns2": ("resnet_bn", {"mesh": {"h": 2, "w": 2}, "transform": [split("images:2", "h"), split("images:3", "w")]}),
    "resnet_bn.channels": ("resnet_bn", {"mesh": {"tp": 2}, "transform": [{"ops": {"type": "Conv"}, "dim": "m", "split": "tp"}]}),
    "resnet_bn.pp2": ("resnet_bn", {"mesh": {"pp": 2}, "assign": [{"stages": "pp", "balance": "flops"}]}),
    **{name: ("gpt", plan) for name, plan in ANY_LEGAL_PLAN.items()},
}


def compare(subject, via):
    findings, model, folder = Findings(), subject.model, subject.folder
    gradients, outputs, final = f"{folder}/gradients.safetensors", f"{folder}/outputs", f"{folder}/final.safetensors"
    rows = subject.train(via, 6, "--grads", gradients, "--outputs", outputs)
    compare_losses(findings, rows, model)
    compare_gradients(findings, gradients, model)
    compare_outputs(findings, outputs, model)
    if os.path.exists(f"{model}/params_final.npz"):
        subject.train(via, 5, "--final", final)
        compare_parameters(findings, final, model)
    predicted = subject.check()
    findings.equal("proven equivalent and free of deadlock", (predicted["equivalent"], predicted["deadlock_free"]), (True, True))
    findings.equal("bytes sent in a step", {sum(row["bytes_sent"]) for row in rows}, {predicted["communication"]["bytes_per_step"]})
    findings.equal("peak bytes of each arena", rows[-1]["peak_memory_bytes"], predicted["peak_memory_bytes"])
    return findings.report()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the names of all cases")
    parser.add_argument("--sscc")
    parser.add_argument("--via", choices=["run", "mpirun"], default="run")
    parser.add_argument("--keep", help="work in this folder and keep it")
    parser.add_argument("case", nargs="?", choices=CASES)
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(CASES))
        return 0
    if not arguments.sscc or not arguments.case:
        parser.error("--sscc and a case are needed")
    model, plan = CASES[arguments.case]
    with tempfile.TemporaryDirectory(prefix="sscc-golden-") as folder:
        folder = arguments.keep or folder
        os.makedirs(folder, exist_ok=True)
        return compare(Subject(arguments.sscc, folder, f"{MODELS}/{model}", plan), arguments.via)


if __name__ == "__main__":
    sys.exit(main())
