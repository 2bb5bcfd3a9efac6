"""A DataLoader with two workers, started by the method named on the command line, and pinned memory."""
import sys

import torch


class Squares(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, i):
        return torch.full((1024,), float(i)), i


class OnDevice(Squares):
    """Items made on the GPU by the worker itself, which only a spawned worker can do."""

    def __getitem__(self, i):
        return torch.full((1024,), float(i), device="cuda").cpu(), i


def main():
    method = sys.argv[1]
    torch.zeros(1, device="cuda")
    total = 0.0
    dataset = OnDevice() if method == "spawn" else Squares()
    loader = torch.utils.data.DataLoader(dataset, 8, num_workers=2, pin_memory=True, multiprocessing_context=method)
    for x, i in loader:
        total += x.cuda(non_blocking=True).mean(1).sum().item()
        assert (i >= 0).all()
    assert total == sum(range(64)), total
    print(f"{method}: 64 items through 2 workers")


if __name__ == "__main__":
    main()
