#!/usr/bin/env python3
"""A decode loop as a CUDA graph: 8 transformer layers, width 2048, batch 8, one token a step, a cache of 512 tokens, bf16.

Reads numbers of steps from stdin and prints how long they took, and the percentiles of single steps.
Unmodified PyTorch, with nothing of cleave in it; run it natively and in a slice. `echo 2000 | torch_decode.py`.
"""

import turns

WIDTH, HEADS, BATCH, LAYERS, CACHE = 2048, 16, 8, 8, 512


def prepare():
    import torch

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
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(3):
                model(token)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            model(token)

    def step(graph=graph, keep=(model, token)):  # the graph reads the memory of both
        graph.replay()

    return step, torch.cuda.synchronize


if __name__ == "__main__":
    turns.serve(prepare, warm=20, each=True)
