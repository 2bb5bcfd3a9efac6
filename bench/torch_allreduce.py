#!/usr/bin/env python3
"""All-reduces of NCCL between ranks: reads sizes in MiB from the stdin of rank 0 and prints the bus bandwidth of each.

Unmodified PyTorch, with nothing of cleave in it; each rank is started by torchrun, or with the variables that torchrun sets.
"""

import json
import os
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist


def bandwidth(mib, everyone):
    """GB/s that cross each rank's link, from enough reductions for a tenth of a second."""
    x = torch.zeros((mib << 20) // 4, device="cuda")
    count = max(5, min(300, (15 << 30) // (mib << 20)))
    for number in range(3 + count):
        if number == 3:
            torch.cuda.synchronize()
            dist.barrier(group=everyone)
            began = time.perf_counter()
        dist.all_reduce(x)
    torch.cuda.synchronize()
    ranks = dist.get_world_size()
    return 2 * (ranks - 1) / ranks * (mib << 20) * count / (time.perf_counter() - began) / 1e9


def main():
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl", timeout=timedelta(seconds=60))
    everyone = dist.new_group(backend="gloo")  # what comes next is told without the GPUs
    rank = dist.get_rank()
    x = torch.full((1 << 20,), float(rank + 1), device="cuda")
    dist.all_reduce(x)
    ranks = dist.get_world_size()
    assert x.min().item() == x.max().item() == ranks * (ranks + 1) / 2
    if rank == 0:
        print(json.dumps({"name": "ready"}), flush=True)
    while True:
        told = [sys.stdin.readline().strip() if rank == 0 else None]
        dist.broadcast_object_list(told, src=0, group=everyone)
        if not told[0]:
            break
        for mib in map(int, told[0].split(",")):
            found = bandwidth(mib, everyone)
            if rank == 0:
                print(json.dumps({"name": "reduced", "mib": mib, "gbps": found}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
