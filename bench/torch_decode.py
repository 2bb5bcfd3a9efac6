#!/usr/bin/env python3
"""A decode loop as a CUDA graph: 8 transformer layers, width 2048, batch 8, one token a step, a cache of 512 tokens, bf16.

Reads numbers of steps from stdin and prints how long they took, and the percentiles of single steps.
Unmodified PyTorch, with nothing of cleave in it; run it natively and in a slice. `echo 2000 | torch_decode.py`.
"""

import json
import sys
import time

import torch

WIDTH, HEADS, BATCH, LAYERS, CACHE = 2048, 16, 8, 8, 512
torch.manual_seed(0)
options = {"device": "cuda", "dtype": torch.bfloat16}


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = torch.nn.LayerNorm(WIDTH, **options), torch.nn.LayerNorm(WIDTH, **options)
        self.qkv, self.out = torch.nn.Linear(WIDTH, 3 * WIDTH, **options), torch.nn.Linear(WIDTH, WIDTH, **options)
        self.up, self.down = torch.nn.Linear(WIDTH, 4 * WIDTH, **options), torch.nn.Linear(4 * WIDTH, WIDTH, **options)
        self.keys = torch.randn(BATCH, HEADS, CACHE, WIDTH // HEADS, **options)
        self.values = torch.randn_like(self.keys)

    def forward(self, x):
        q, k, v = self.qkv(self.norm1(x)).view(BATCH, 1, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        self.keys[:, :, -1:].copy_(k)
        self.values[:, :, -1:].copy_(v)
        attended = torch.nn.functional.scaled_dot_product_attention(q, self.keys, self.values)
        x = x + self.out(attended.transpose(1, 2).reshape(BATCH, 1, WIDTH))
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm2(x))))


with torch.inference_mode():
    model = torch.nn.Sequential(*[Layer() for _ in range(LAYERS)])
    token = torch.randn(BATCH, 1, WIDTH, **options)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            model(token)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(token)
    for _ in range(20):
        graph.replay()
    torch.cuda.synchronize()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        steps = int(line)
        for _ in range(20):
            graph.replay()
        torch.cuda.synchronize()
        times = []
        start = last = time.perf_counter()
        for _ in range(steps):
            graph.replay()
            torch.cuda.synchronize()  # a token is needed before the next can be asked for
            now = time.perf_counter()
            times.append(now - last)
            last = now
        times.sort()
        print(json.dumps({"steps": steps, "seconds": last - start, "p50_us": times[len(times) // 2] * 1e6,
                          "p99_us": times[len(times) * 99 // 100] * 1e6}), flush=True)
