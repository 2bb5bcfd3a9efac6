#!/usr/bin/env python3
"""A training loop: 8 × Linear 4096, batch 4096, bf16. Reads numbers of steps from stdin and prints how long they took.

Unmodified PyTorch, with nothing of cleave in it; run it natively and in a slice. `echo 200 | torch_train.py`.
"""

import turns


def prepare():
    import torch

    torch.manual_seed(0)
    layers = []
    for _ in range(8):
        layers += [torch.nn.Linear(4096, 4096), torch.nn.GELU()]
    model = torch.nn.Sequential(*layers).to("cuda", torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    x = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    y = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()

    for _ in range(10):
        step()
    return step, torch.cuda.synchronize


if __name__ == "__main__":
    turns.serve(prepare, warm=3)
