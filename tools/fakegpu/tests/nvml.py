#!/usr/bin/env python3
"""Reads the simulated cards through the unmodified nvidia-ml-py.

usage: LD_LIBRARY_PATH=<dir> PYTHONPATH=<nvidia-ml-py> python3 tests/nvml.py
where <dir> was made by `fakegpu::install` with the spec 8xH100.
"""
import ctypes

import pynvml as n

n.nvmlInit()
assert n.nvmlSystemGetDriverVersion() == "580.159.04"
assert n.nvmlSystemGetCudaDriverVersion_v2() == 13000
assert n.nvmlDeviceGetCount() == 8
uuids = set()
for index in range(8):
    h = n.nvmlDeviceGetHandleByIndex(index)
    assert n.nvmlDeviceGetName(h) == "NVIDIA H100 80GB HBM3"
    uuids.add(n.nvmlDeviceGetUUID(h))
    assert n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleByUUID(n.nvmlDeviceGetUUID(h))) == index
    pci = n.nvmlDeviceGetPciInfo(h)
    assert n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleByPciBusId(pci.busId)) == index, pci.busId
    assert n.nvmlDeviceGetMemoryInfo(h).total == 81559 << 20
    assert n.nvmlDeviceGetMemoryInfo(h, version=n.nvmlMemory_v2).reserved == (81559 << 20) - 85017493504
    n.nvmlDeviceGetUtilizationRates(h)
    assert n.nvmlDeviceGetComputeRunningProcesses(h) == []
    assert n.nvmlDeviceGetPowerManagementLimit(h) == 700000
    assert n.nvmlDeviceGetTemperature(h, n.NVML_TEMPERATURE_GPU) < 100
    assert n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_MEM) == 2619
    assert n.nvmlDeviceGetCudaComputeCapability(h) == (9, 0)
    assert list(n.nvmlDeviceGetMigMode(h)) == [0, 0]
    assert n.nvmlDeviceGetNvLinkState(h, 0) == 1
    info = n.nvmlDeviceGetGpuInstanceProfileInfo(h, n.NVML_GPU_INSTANCE_PROFILE_3_SLICE, version=2)
    assert (info.id, info.multiprocessorCount, info.memorySizeMB) == (9, 60, 40448)
    values = n.nvmlDeviceGetFieldValues(h, [n.NVML_FI_DEV_NVLINK_LINK_COUNT])
    assert values[0].nvmlReturn == n.NVML_ERROR_NOT_SUPPORTED
    try:
        n.nvmlDeviceGetFanSpeed(h)
        raise AssertionError("a data-centre card has no fan")
    except n.NVMLError_NotSupported as error:
        assert str(error) == "Not Supported", error
assert len(uuids) == 8
one, two = n.nvmlDeviceGetHandleByIndex(0), n.nvmlDeviceGetHandleByIndex(7)
assert n.nvmlDeviceGetTopologyCommonAncestor(one, two) == n.NVML_TOPOLOGY_SYSTEM
assert n.nvmlDeviceGetP2PStatus(one, two, ctypes.c_uint(0)) == n.NVML_P2P_STATUS_OK
n.nvmlShutdown()
print("ok: nvidia-ml-py on 8 simulated cards")
