"""Runs into the quota, catches torch.cuda.OutOfMemoryError, gives memory back and trains on."""
import torch

free, total = torch.cuda.mem_get_info()
blocks, caught = [], None
try:
    while len(blocks) * 256 < 4 * total // 2**20:
        blocks.append(torch.empty(256 * 2**20, dtype=torch.uint8, device="cuda"))
except torch.cuda.OutOfMemoryError as error:
    caught = error
assert caught is not None, f"{len(blocks) * 256} MiB and no OutOfMemoryError"
got = len(blocks) * 256 * 2**20
assert got <= total, f"got {got} of {total}"
assert got > total - 2 * 2**30, f"got only {got} of {total}"
held = len(blocks)
caught = None
del blocks
torch.cuda.empty_cache()
for _ in range(3):  # again and again, or something is lost each time
    block = torch.empty(int(got * 0.9), dtype=torch.uint8, device="cuda")
    del block
    torch.cuda.empty_cache()
model = torch.nn.Linear(4096, 4096).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for _ in range(10):
    optimizer.zero_grad()
    model(torch.randn(1024, 4096, device="cuda")).square().mean().backward()
    optimizer.step()
torch.cuda.synchronize()
print(f"OutOfMemoryError after {held * 256} MiB of {total // 2**20}, then trained on")
