"""Started by torchrun: initialises NCCL and reduces."""
import os

import torch
import torch.distributed as dist

torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
dist.init_process_group("nccl")
x = torch.full((1 << 20,), 3.0, device="cuda")
dist.all_reduce(x)
torch.cuda.synchronize()
assert x.sum().item() == 3.0 * dist.get_world_size() * (1 << 20)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(256, 256).cuda())
model(torch.randn(8, 256, device="cuda")).sum().backward()
torch.cuda.synchronize()
dist.destroy_process_group()
print("NCCL all_reduce and DistributedDataParallel with one rank")
