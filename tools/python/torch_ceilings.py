"""What a GPU does at most, as PyTorch measures it: bytes a second of a copy, counted once for reading and once for writing, and FLOPs a second of a
matrix product (cuBLAS), in bf16 and in f32 without tensor cores. Prints a JSON object; figures are medians.

    torch_ceilings.py
"""
import json
import statistics

import torch


def seconds_of(work, repeats):
    """The median, after as many calls that do not count."""
    for _ in range(repeats):
        work()
    points = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    points[0].record()
    for point in points[1:]:
        work()
        point.record()
    torch.cuda.synchronize()
    return statistics.median(first.elapsed_time(second) * 1e-3 for first, second in zip(points, points[1:]))


def main():
    torch.backends.cuda.matmul.allow_tf32 = False
    source = torch.zeros(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copied = 2 * source.numel() / seconds_of(lambda: target.copy_(source), 20)
    del source, target
    products = {}
    for name, dtype, size in (("bf16", torch.bfloat16, 8192), ("f32", torch.float32, 4096)):
        left, right = (torch.randn(size, size, device="cuda", dtype=dtype) for _ in range(2))
        out = torch.empty_like(left)
        products[name] = 2 * size**3 / seconds_of(lambda: torch.matmul(left, right, out=out), 20)
    print(json.dumps({"from": "a copy and matrix products by PyTorch", "bytes_per_second": copied, "flops_per_second": products}))


if __name__ == "__main__":
    main()
