"""Prints the sizes that PyTorch and NVML report; the test compares them with the quota."""
import json

import torch

free, total = torch.cuda.mem_get_info()
answer = {"free": free, "total": total, "properties": torch.cuda.get_device_properties(0).total_memory}
x = torch.empty(2**30, dtype=torch.uint8, device="cuda")
answer["free_after"] = torch.cuda.mem_get_info()[0]
try:
    import os

    import pynvml

    pynvml.nvmlInit()
    device = pynvml.nvmlDeviceGetHandleByIndex(0)
    memory = pynvml.nvmlDeviceGetMemoryInfo(device)
    answer["nvml_total"], answer["nvml_used"], answer["nvml_free"] = memory.total, memory.used, memory.free
    memory = pynvml.nvmlDeviceGetMemoryInfo(device, version=pynvml.nvmlMemory_v2)
    answer["nvml_total_v2"], answer["nvml_used_v2"] = memory.total, memory.used
    answer["nvml_processes"] = {p.pid: p.usedGpuMemory for p in pynvml.nvmlDeviceGetComputeRunningProcesses(device)}
    answer["pid"] = os.getpid()
except ImportError as error:
    answer["nvml_missing"] = str(error)
print(json.dumps(answer))
