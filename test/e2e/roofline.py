"""Kernels against the roofline: how long each could have taken at least, given what it reads, writes and multiplies, over how long it took.

The work is read from the source of a rank program (src/program_K.cpp), which has every kernel's operands with shapes and types below the name,
`rank.at("...")`, that --trace gives its time:

    rank.at("/up/MatMul", micro_batch);
    contract(view(buf::t_up, {16, 32}), view(buf::x, {16, 8}), view(buf::w_up, {8, 32}), "ab,bc->ac", 1.0, overwrite);

Kernels of one name are one span of the trace, and so one row, with the sum of their least times; rows of the same kernels with the same operands
(one for each layer) are one row of the table. What is counted:

- bytes: each operand once, an output that is also read twice; broadcast dimensions once; of a table that is gathered from or scattered to, its rows;
  of what windows read, the positions that they see
- FLOPs: products (two for each multiplication), of attention those of all scores, masked or not, of convolutions those with padding, too; pointwise
  work, norms and pooling count as bytes alone
"""
import collections
import math
import re

SIZES = {"f64": 8, "i64": 8, "f32": 4, "i32": 4, "bf16": 2, "f16": 2, "i8": 1, "u8": 1, "b1": 1}
VIEW = r"view\(buf::(?P<buffer>\w+), (?:(?P<offset>\d+), )?\{(?P<dims>[\d, ]*)\}(?:, \{(?P<strides>[-\d, ]*)\})?\)"
STATEMENT = re.compile(r'^  rank\.at\("((?:[^"\\]|\\.)*)"|^  ((?:fused::)?\w+)\((.*?)\);$', re.MULTILINE | re.DOTALL)
WINDOW = re.compile(r"Window\{(?:\.kernel = \{(?P<kernel>[\d, ]*)\})?(?:, )?(?:\.stride = \{(?P<stride>[\d, ]*)\})?")
# Of kernels with windows: the places of what has the positions that windows see, and of what has one for each window.
LARGE_AND_SMALL = {"convolve": (1, 0), "convolve_transposed": (0, 1), "convolve_grad_weight": (1, 2),
                   "max_pool": (2, 0), "max_pool_grad": (0, 1), "sum_pool": (1, 0), "sum_pool_grad": (0, 1)}
WEIGHT = {"convolve": 2, "convolve_transposed": 2, "convolve_grad_weight": 0}
OPERAND = re.compile(rf"{VIEW}|no_tensor|(?P<in_place>\bin_place\()")

Operand = collections.namedtuple("Operand", "dims type bytes")   # bytes: of distinct elements
Window = collections.namedtuple("Window", "kernel stride")
# form: the equation of a product, or kernel and stride of windows; type: of what is multiplied
Kernel = collections.namedtuple("Kernel", "name form operands bytes flops type")


def numbers(text):
    return [int(word) for word in text.split(",")] if text and text.strip() else []


# -- work -----------------------------------------------------------------------------------------------------------------------------------------


def operands_of(arguments, types):
    """In their order, None for an absent one; and the places of the parameters that are updated in place."""
    operands, in_place = [], []
    for found in OPERAND.finditer(arguments):
        if found["in_place"]:
            in_place.append(len(operands))
        elif not found["buffer"]:
            operands.append(None)
        else:
            dims = numbers(found["dims"])
            strides = numbers(found["strides"]) or [1] * len(dims)
            distinct = math.prod(length for length, stride in zip(dims, strides) if stride != 0)
            operands.append(Operand(tuple(dims), types[found["buffer"]], distinct * SIZES[types[found["buffer"]]]))
    return operands, in_place


def window_of(arguments, operands):
    """Of a kernel with windows; one position wide, and a step long, where nothing else is said."""
    found, space = WINDOW.search(arguments), len(operands[0].dims) - 2
    return Window(*(numbers(found[key]) or [1] * space for key in ("kernel", "stride")))


def convolution_flops(name, operands):
    """Every window's every product: all of `small` times what a filter has."""
    return 2 * math.prod(operands[LARGE_AND_SMALL[name][1]].dims) * math.prod(operands[WEIGHT[name]].dims[1:])


def unseen(name, operands, window):
    """Bytes of `large` that no window sees."""
    large, small = (operands[place] for place in LARGE_AND_SMALL[name])
    seen = [min(length, count * width) for length, count, width in zip(large.dims[2:], small.dims[2:], window.kernel)]
    return large.bytes - large.bytes * math.prod(seen) // math.prod(large.dims[2:])


def products_of(name, equation, operands):
    """FLOPs of matrix products."""
    inputs = equation.partition("->")[0].split(",")
    first = {"contract": 1, "contract_epilogue": 2, "attention": 2, "attention_grad": 3}[name]
    lengths = {label: length for labels, operand in zip(inputs[:3], operands[first:]) for label, length in zip(labels, operand.dims)}

    def product(*terms):
        return 2 * math.prod(lengths[label] for label in set("".join(terms)))

    if name.startswith("contract"):
        return product(*inputs)
    query, key, value, scores = inputs
    of_scores, of_values = product(query, key), product(scores, value)
    # Backwards: the scores again, gradients of query and key; gradients of weights and values.
    return of_scores + of_values if name == "attention" else 3 * of_scores + 2 * of_values


def bytes_of(name, arguments, operands, in_place):
    sizes = [operand.bytes if operand else 0 for operand in operands]
    total = sum(sizes)
    if name == "update":   # in place: parameter, gradient, moments; the gradient alone is not written
        ends = in_place[1:] + [len(operands)]
        return total + sum(sum(sizes[begin:end]) - sizes[begin + 1] for begin, end in zip(in_place, ends))
    if name == "gather":   # out, data, indices
        rows = math.prod(operands[0].dims) * SIZES[operands[1].type]
        return total - sizes[1] + min(sizes[1], rows)
    if name == "scatter_add":   # out, indices, dy: zeroed as a whole, unless it accumulates; then its rows are read and written
        rows = 2 * min(sizes[0], math.prod(operands[2].dims) * SIZES[operands[0].type])
        return total - sizes[0] + rows + (0 if accumulates(arguments) else sizes[0])
    if name == "pick":   # out, logits, labels
        return total - sizes[1] + sizes[0]
    if name in LARGE_AND_SMALL and LARGE_AND_SMALL[name][0] > 0:
        total -= unseen(name, operands, window_of(arguments, operands))
    outputs = 2 if name == "norm_grad_scale" else 1
    return total + (sum(sizes[:outputs]) if accumulates(arguments) else 0)


def accumulates(arguments):
    return re.search(r"\baccumulate$", arguments) is not None


def kernels_of(source):
    """{(segment, name): [Kernel]} of a rank program's text."""
    types = dict(re.findall(r"^  (\w+),  // (\w+)\[", source, re.MULTILINE))
    found = {}
    for segment in re.finditer(r"^void segment_(\w+)\(.*?^}", source, re.MULTILINE | re.DOTALL):
        place = None
        for at, function, arguments in STATEMENT.findall(segment[0]):
            if at:
                place = (segment[1], re.sub(r"\\(.)", r"\1", at))
            elif "view(buf::" in arguments and place:
                found.setdefault(place, []).append(kernel_of(function, " ".join(arguments.split()), types))
    return found


def kernel_of(name, arguments, types):
    operands, in_place = operands_of(arguments, types)
    read = bytes_of(name, arguments, operands, in_place)
    if name in LARGE_AND_SMALL:
        window = window_of(arguments, operands)
        form = "/".join("x".join(map(str, each)) for each in window if each is window.kernel or set(each) != {1})
        return Kernel(name, form, tuple(operands), read, *((convolution_flops(name, operands), operands[1].type) if name in WEIGHT else (0, None)))
    equation = re.search(r'"([a-zA-Z,]*->[a-zA-Z]*)"', arguments)
    flops, factor = 0, None
    if equation:
        flops = products_of(name, equation[1], operands)
        factor = next(operand for operand in operands[1:] if operand).type if name == "contract" else operands[2].type
    return Kernel(name, equation[1] if equation else "", tuple(operands), read, flops, factor)


# -- time -----------------------------------------------------------------------------------------------------------------------------------------


def times_of(trace, warm):
    """({(segment, name): (seconds, runs)}, seconds of the step) of rank 0 in one step: the one of median length, but for the first `warm`."""
    events = [event for event in trace["traceEvents"] if event["ph"] == "X" and event["tid"] == 0 and event["args"]["step"] >= warm]
    steps = sorted((event["dur"], event["args"]["step"]) for event in events if event["cat"] == "step")
    if not steps:
        raise AssertionError(f"the trace has no step beyond the first {warm}")
    length, chosen = steps[len(steps) // 2]
    seconds, runs = collections.Counter(), collections.defaultdict(set)
    for event in events:
        if event["cat"] != "step" and event["args"]["step"] == chosen:
            seconds[event["cat"], event["name"]] += event["dur"] * 1e-6
            runs[event["cat"], event["name"]].add(event["args"].get("micro_batch"))
    return {place: (seconds[place], len(runs[place])) for place in seconds}, length * 1e-6


# -- the table ------------------------------------------------------------------------------------------------------------------------------------


def least_seconds(kernel, ceilings):
    """What a copy of so many bytes and a matrix product of so many FLOPs would take, whichever is longer."""
    of_bytes = kernel.bytes / ceilings["bytes_per_second"]
    return max(of_bytes, kernel.flops / ceilings["flops_per_second"][kernel.type]) if kernel.flops else of_bytes


def title_of(kernels):
    """'contract axy,zy->axz bf16 16x1024x768, 768x2304; ...': the widest operands of each kernel."""
    def text(kernel):
        operands = sorted((operand for operand in kernel.operands if operand), key=lambda operand: -operand.bytes)[:2]
        shapes = ", ".join(f"{operand.type} {'x'.join(map(str, operand.dims))}".strip() for operand in operands)
        more = f" and {len(kernel.operands) - 2} more" if kernel.name in ("update", "sum_of_squares") and len(kernel.operands) > 2 else ""
        return " ".join(filter(None, [kernel.name, kernel.form, shapes + more]))
    return "; ".join(f"{count} x {each}" if count > 1 else each for each, count in collections.Counter(map(text, kernels)).items())


def table(source, trace, ceilings, warm):
    """Rows by falling share of the step, and the share of the step that no kernel has. `ceilings` may be None: no least time."""
    kernels, (times, step) = kernels_of(source), times_of(trace, warm)
    rows = {}
    for place, (seconds, runs) in times.items():
        of_place = kernels.get(place, [])
        title = title_of(of_place) or "communication, captures"
        row = rows.setdefault(title, {"kernels": title, "for_example": place[1], "spans": 0, "seconds": 0.0, "bytes": 0, "flops": 0,
                                      "least_seconds": 0.0 if ceilings else None})
        row["spans"] += runs
        row["seconds"] += seconds
        row["bytes"] += runs * sum(kernel.bytes for kernel in of_place)
        row["flops"] += runs * sum(kernel.flops for kernel in of_place)
        if ceilings:
            row["least_seconds"] += runs * sum(least_seconds(kernel, ceilings) for kernel in of_place)
    for row in rows.values():
        row["share"] = row["seconds"] / step
        if ceilings and row["least_seconds"]:
            row["of_ceiling"] = row["least_seconds"] / max(row["seconds"], 1e-12)
            row["bound"] = "FLOPs" if row["bytes"] / ceilings["bytes_per_second"] < 0.999 * row["least_seconds"] else "bytes"
    listed = sorted(rows.values(), key=lambda row: -row["seconds"])
    return listed, 1 - sum(row["share"] for row in listed)


def is_slow(row, ceiling=0.7, share=0.03):
    return row["share"] > share and row.get("of_ceiling", ceiling) < ceiling


def text_of(rows, rest, narrowest=0.003):
    """The table as lines; what is narrower than `narrowest` of the step is summed up."""
    lines = ["    share        ms      GB   TFLOP    GB/s  TFLOP/s  of ceiling  kernels (spans of a step)"]
    narrow = [row for row in rows if row["share"] < narrowest]
    for row in rows:
        if row["share"] < narrowest:
            continue
        seconds = max(row["seconds"], 1e-12)
        of_ceiling = f"{100 * row['of_ceiling']:4.0f} % {row['bound']:5}" if "of_ceiling" in row else "           "
        gigabytes, teraflops = 1e-9 * row["bytes"], 1e-12 * row["flops"]
        lines.append(f"{'*' if is_slow(row) else ' '} {100 * row['share']:5.1f} % {1e3 * row['seconds']:9.3f} {gigabytes:7.2f} {teraflops:7.3f} "
                     f"{gigabytes / seconds:7.0f} {teraflops / seconds:8.1f} {of_ceiling:>12}  {row['kernels']} ({row['spans']})")
    share = sum(row["share"] for row in narrow)
    lines.append(f"  {100 * share:5.1f} % in {len(narrow)} rows below {100 * narrowest:.1f} % each; {100 * rest:.1f} % between kernels; "
                 "*: above 3 %, and below 70 % of its ceiling")
    return "\n".join(lines)
