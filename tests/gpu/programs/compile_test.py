"""torch.compile: inductor, Triton kernels of its own, and CUDA graph trees."""
import torch

model = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.GELU(), torch.nn.Linear(256, 256)).cuda()
fast = torch.compile(model, mode="reduce-overhead")
x = torch.randn(64, 256, device="cuda")
with torch.inference_mode():
    for _ in range(5):
        got = fast(x).clone()
    error = (got - model(x)).abs().max().item()
assert error < 1e-2, error
print(f"largest difference to eager {error:.5f}")
