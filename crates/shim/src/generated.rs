//! What `cargo xtask generate` makes of `crates/cuda/table`: do not edit.
//!
//! Every exported name has a number, a place for the real entry point, and an export: a hook of ours, a jump to
//! the real entry point, or a refusal.
use crate::real::{enter, pass, refuse};
use cleave_ledger::KernelClass;
use core::ffi::c_void;

/// Number of names.
pub const COUNT: usize = 1148;
/// Names below this one are the CUDA driver's, the others NVML's.
pub const CUDA_COUNT: usize = 717;

/// The names, each ended by a zero.
#[rustfmt::skip]
pub static NAMES: &[u8] = b"cuArray3DCreate\0cuArray3DCreate_v2\0cuArray3DGetDescriptor\0cuArray3DGetDescriptor_v2\0cuArrayCreate\0cuArrayCreate_v2\0cuArrayDestroy\0cuArrayGetDescriptor\0cuArrayGetDescriptor_v2\0cuArrayGetMemoryRequirements\0cuArrayGetPlane\0cuArrayGetSparseProperties\0cuCheckpointOperationComplete\0cuCheckpointProcessCheckpoint\0cuCheckpointProcessGetRestoreThreadId\0cuCheckpointProcessGetState\0cuCheckpointProcessLock\0cuCheckpointProcessRestore\0cuCheckpointProcessUnlock\0cuCoredumpDeregisterCompleteCallback\0cuCoredumpDeregisterStartCallback\0cuCoredumpGetAttribute\0cuCoredumpGetAttributeGlobal\0cuCoredumpRegisterCompleteCallback\0cuCoredumpRegisterStartCallback\0cuCoredumpSetAttribute\0cuCoredumpSetAttributeGlobal\0cuCtxAttach\0cuCtxCreate\0cuCtxCreate_v2\0cuCtxCreate_v3\0cuCtxCreate_v4\0cuCtxDestroy\0cuCtxDestroy_v2\0cuCtxDetach\0cuCtxDisablePeerAccess\0cuCtxEnablePeerAccess\0cuCtxFromGreenCtx\0cuCtxGetApiVersion\0cuCtxGetCacheConfig\0cuCtxGetCurrent\0cuCtxGetDevResource\0cuCtxGetDevice\0cuCtxGetDevice_v2\0cuCtxGetExecAffinity\0cuCtxGetFlags\0cuCtxGetId\0cuCtxGetLimit\0cuCtxGetSharedMemConfig\0cuCtxGetStreamPriorityRange\0cuCtxPopCurrent\0cuCtxPopCurrent_v2\0cuCtxPushCurrent\0cuCtxPushCurrent_v2\0cuCtxRecordEvent\0cuCtxResetPersistingL2Cache\0cuCtxSetCacheConfig\0cuCtxSetCurrent\0cuCtxSetFlags\0cuCtxSetLimit\0cuCtxSetSharedMemConfig\0cuCtxSynchronize\0cuCtxSynchronize_v2\0cuCtxWaitEvent\0cuDestroyExternalMemory\0cuDestroyExternalSemaphore\0cuDevResourceGenerateDesc\0cuDevSmResourceSplit\0cuDevSmResourceSplitByCount\0cuDeviceCanAccessPeer\0cuDeviceComputeCapability\0cuDeviceGet\0cuDeviceGetAttribute\0cuDeviceGetByPCIBusId\0cuDeviceGetCliqueCount\0cuDeviceGetCliqueInfo\0cuDeviceGetCount\0cuDeviceGetDefaultMemPool\0cuDeviceGetDevResource\0cuDeviceGetExecAffinitySupport\0cuDeviceGetFabricClusterUuid\0cuDeviceGetGraphMemAttribute\0cuDeviceGetHostAtomicCapabilities\0cuDeviceGetLuid\0cuDeviceGetMemPool\0cuDeviceGetName\0cuDeviceGetNvSciSyncAttributes\0cuDeviceGetP2PAtomicCapabilities\0cuDeviceGetP2PAttribute\0cuDeviceGetPCIBusId\0cuDeviceGetProperties\0cuDeviceGetTexture1DLinearMaxWidth\0cuDeviceGetUuid\0cuDeviceGetUuid_v2\0cuDeviceGraphMemTrim\0cuDevicePrimaryCtxGetState\0cuDevicePrimaryCtxRelease\0cuDevicePrimaryCtxRelease_v2\0cuDevicePrimaryCtxReset\0cuDevicePrimaryCtxReset_v2\0cuDevicePrimaryCtxRetain\0cuDevicePrimaryCtxSetFlags\0cuDevicePrimaryCtxSetFlags_v2\0cuDeviceRegisterAsyncNotification\0cuDeviceSetGraphMemAttribute\0cuDeviceSetMemPool\0cuDeviceTotalMem\0cuDeviceTotalMem_v2\0cuDeviceUnregisterAsyncNotification\0cuDriverGetVersion\0cuEGLApiInit\0cuEGLStreamConsumerAcquireFrame\0cuEGLStreamConsumerConnect\0cuEGLStreamConsumerConnectWithFlags\0cuEGLStreamConsumerDisconnect\0cuEGLStreamConsumerReleaseFrame\0cuEGLStreamProducerConnect\0cuEGLStreamProducerDisconnect\0cuEGLStreamProducerPresentFrame\0cuEGLStreamProducerReturnFrame\0cuEventCreate\0cuEventDestroy\0cuEventDestroy_v2\0cuEventElapsedTime\0cuEventElapsedTime_v2\0cuEventQuery\0cuEventRecord\0cuEventRecordWithFlags\0cuEventRecordWithFlags_ptsz\0cuEventRecord_ptsz\0cuEventSynchronize\0cuExternalMemoryGetMappedBuffer\0cuExternalMemoryGetMappedMipmappedArray\0cuFabricCpyBatchAsync\0cuFlushGPUDirectRDMAWrites\0cuFuncGetAttribute\0cuFuncGetModule\0cuFuncGetName\0cuFuncGetParamCount\0cuFuncGetParamInfo\0cuFuncIsLoaded\0cuFuncLoad\0cuFuncSetAttribute\0cuFuncSetBlockShape\0cuFuncSetCacheConfig\0cuFuncSetSharedMemConfig\0cuFuncSetSharedSize\0cuGLCtxCreate\0cuGLCtxCreate_v2\0cuGLGetDevices\0cuGLGetDevices_v2\0cuGLInit\0cuGLMapBufferObject\0cuGLMapBufferObjectAsync\0cuGLMapBufferObjectAsync_v2\0cuGLMapBufferObjectAsync_v2_ptsz\0cuGLMapBufferObject_v2\0cuGLMapBufferObject_v2_ptds\0cuGLRegisterBufferObject\0cuGLSetBufferObjectMapFlags\0cuGLUnmapBufferObject\0cuGLUnmapBufferObjectAsync\0cuGLUnregisterBufferObject\0cuGetErrorName\0cuGetErrorString\0cuGetExportTable\0cuGetProcAddress\0cuGetProcAddress_v2\0cuGraphAddBatchMemOpNode\0cuGraphAddChildGraphNode\0cuGraphAddDependencies\0cuGraphAddDependencies_v2\0cuGraphAddEmptyNode\0cuGraphAddEventRecordNode\0cuGraphAddEventWaitNode\0cuGraphAddExternalSemaphoresSignalNode\0cuGraphAddExternalSemaphoresWaitNode\0cuGraphAddHostNode\0cuGraphAddKernelNode\0cuGraphAddKernelNode_v2\0cuGraphAddMemAllocNode\0cuGraphAddMemFreeNode\0cuGraphAddMemcpyNode\0cuGraphAddMemsetNode\0cuGraphAddNode\0cuGraphAddNode_v2\0cuGraphAddNode_v3\0cuGraphBatchMemOpNodeGetParams\0cuGraphBatchMemOpNodeSetParams\0cuGraphChildGraphNodeGetGraph\0cuGraphClone\0cuGraphConditionalHandleCreate\0cuGraphCreate\0cuGraphDebugDotPrint\0cuGraphDestroy\0cuGraphDestroyNode\0cuGraphEventRecordNodeGetEvent\0cuGraphEventRecordNodeSetEvent\0cuGraphEventWaitNodeGetEvent\0cuGraphEventWaitNodeSetEvent\0cuGraphExecBatchMemOpNodeSetParams\0cuGraphExecChildGraphNodeSetParams\0cuGraphExecDestroy\0cuGraphExecEventRecordNodeSetEvent\0cuGraphExecEventWaitNodeSetEvent\0cuGraphExecExternalSemaphoresSignalNodeSetParams\0cuGraphExecExternalSemaphoresWaitNodeSetParams\0cuGraphExecGetFlags\0cuGraphExecGetId\0cuGraphExecHostNodeSetParams\0cuGraphExecKernelNodeSetParams\0cuGraphExecKernelNodeSetParams_v2\0cuGraphExecMemcpyNodeSetParams\0cuGraphExecMemsetNodeSetParams\0cuGraphExecNodeSetParams\0cuGraphExecUpdate\0cuGraphExecUpdate_v2\0cuGraphExternalSemaphoresSignalNodeGetParams\0cuGraphExternalSemaphoresSignalNodeSetParams\0cuGraphExternalSemaphoresWaitNodeGetParams\0cuGraphExternalSemaphoresWaitNodeSetParams\0cuGraphGetEdges\0cuGraphGetEdges_v2\0cuGraphGetId\0cuGraphGetNodes\0cuGraphGetRootNodes\0cuGraphHostNodeGetParams\0cuGraphHostNodeSetParams\0cuGraphInstantiate\0cuGraphInstantiateWithFlags\0cuGraphInstantiateWithParams\0cuGraphInstantiateWithParams_ptsz\0cuGraphInstantiate_v2\0cuGraphKernelNodeCopyAttributes\0cuGraphKernelNodeGetAttribute\0cuGraphKernelNodeGetParams\0cuGraphKernelNodeGetParams_v2\0cuGraphKernelNodeSetAttribute\0cuGraphKernelNodeSetParams\0cuGraphKernelNodeSetParams_v2\0cuGraphLaunch\0cuGraphLaunch_ptsz\0cuGraphMemAllocNodeGetParams\0cuGraphMemFreeNodeGetParams\0cuGraphMemcpyNodeGetParams\0cuGraphMemcpyNodeSetParams\0cuGraphMemsetNodeGetParams\0cuGraphMemsetNodeSetParams\0cuGraphNodeFindInClone\0cuGraphNodeGetContainingGraph\0cuGraphNodeGetDependencies\0cuGraphNodeGetDependencies_v2\0cuGraphNodeGetDependentNodes\0cuGraphNodeGetDependentNodes_v2\0cuGraphNodeGetEnabled\0cuGraphNodeGetLocalId\0cuGraphNodeGetParams\0cuGraphNodeGetToolsId\0cuGraphNodeGetType\0cuGraphNodeSetEnabled\0cuGraphNodeSetParams\0cuGraphNodeSetParams_v2\0cuGraphReleaseUserObject\0cuGraphRemoveDependencies\0cuGraphRemoveDependencies_v2\0cuGraphRetainUserObject\0cuGraphUpload\0cuGraphUpload_ptsz\0cuGraphicsEGLRegisterImage\0cuGraphicsGLRegisterBuffer\0cuGraphicsGLRegisterImage\0cuGraphicsMapResources\0cuGraphicsMapResources_ptsz\0cuGraphicsResourceGetMappedEglFrame\0cuGraphicsResourceGetMappedMipmappedArray\0cuGraphicsResourceGetMappedPointer\0cuGraphicsResourceGetMappedPointer_v2\0cuGraphicsResourceSetMapFlags\0cuGraphicsResourceSetMapFlags_v2\0cuGraphicsSubResourceGetMappedArray\0cuGraphicsUnmapResources\0cuGraphicsUnmapResources_ptsz\0cuGraphicsUnregisterResource\0cuGraphicsVDPAURegisterOutputSurface\0cuGraphicsVDPAURegisterVideoSurface\0cuGreenCtxCreate\0cuGreenCtxDestroy\0cuGreenCtxGetDevResource\0cuGreenCtxGetId\0cuGreenCtxRecordEvent\0cuGreenCtxStreamCreate\0cuGreenCtxWaitEvent\0cuImportExternalMemory\0cuImportExternalSemaphore\0cuInit\0cuIpcCloseMemHandle\0cuIpcGetEventHandle\0cuIpcGetMemHandle\0cuIpcOpenEventHandle\0cuIpcOpenMemHandle\0cuIpcOpenMemHandle_v2\0cuKernelGetAttribute\0cuKernelGetFunction\0cuKernelGetLibrary\0cuKernelGetName\0cuKernelGetParamCount\0cuKernelGetParamInfo\0cuKernelSetAttribute\0cuKernelSetCacheConfig\0cuLaunch\0cuLaunchCooperativeKernel\0cuLaunchCooperativeKernelMultiDevice\0cuLaunchCooperativeKernel_ptsz\0cuLaunchGrid\0cuLaunchGridAsync\0cuLaunchHostFunc\0cuLaunchHostFunc_ptsz\0cuLaunchHostFunc_v2\0cuLaunchKernel\0cuLaunchKernelEx\0cuLaunchKernelEx_ptsz\0cuLaunchKernel_ptsz\0cuLibraryEnumerateKernels\0cuLibraryGetGlobal\0cuLibraryGetKernel\0cuLibraryGetKernelCount\0cuLibraryGetManaged\0cuLibraryGetModule\0cuLibraryGetUnifiedFunction\0cuLibraryLoadData\0cuLibraryLoadFromFile\0cuLibraryUnload\0cuLinkAddData\0cuLinkAddData_v2\0cuLinkAddFile\0cuLinkAddFile_v2\0cuLinkComplete\0cuLinkCreate\0cuLinkCreate_v2\0cuLinkDestroy\0cuLogicalEndpointAddDevice\0cuLogicalEndpointBindAddr\0cuLogicalEndpointBindMem\0cuLogicalEndpointCreate\0cuLogicalEndpointDestroy\0cuLogicalEndpointExport\0cuLogicalEndpointGetLimits\0cuLogicalEndpointIdRelease\0cuLogicalEndpointIdReserve\0cuLogicalEndpointImport\0cuLogicalEndpointQuery\0cuLogicalEndpointUnbind\0cuLogsCurrent\0cuLogsDumpToFile\0cuLogsDumpToMemory\0cuLogsRegisterCallback\0cuLogsUnregisterCallback\0cuMemAddressFree\0cuMemAddressReserve\0cuMemAdvise\0cuMemAdvise_v2\0cuMemAlloc\0cuMemAllocAsync\0cuMemAllocAsync_ptsz\0cuMemAllocFromPoolAsync\0cuMemAllocFromPoolAsync_ptsz\0cuMemAllocHost\0cuMemAllocHost_v2\0cuMemAllocManaged\0cuMemAllocPitch\0cuMemAllocPitch_v2\0cuMemAlloc_v2\0cuMemBatchDecompressAsync\0cuMemBatchDecompressAsync_ptsz\0cuMemCreate\0cuMemDiscardAndPrefetchBatchAsync\0cuMemDiscardAndPrefetchBatchAsync_ptsz\0cuMemDiscardBatchAsync\0cuMemDiscardBatchAsync_ptsz\0cuMemExportToShareableHandle\0cuMemFree\0cuMemFreeAsync\0cuMemFreeAsync_ptsz\0cuMemFreeHost\0cuMemFree_v2\0cuMemGetAccess\0cuMemGetAddressRange\0cuMemGetAddressRange_v2\0cuMemGetAllocationGranularity\0cuMemGetAllocationPropertiesFromHandle\0cuMemGetAttribute\0cuMemGetAttribute_v2\0cuMemGetDefaultMemPool\0cuMemGetHandleForAddressRange\0cuMemGetInfo\0cuMemGetInfo_v2\0cuMemGetLocationInfo\0cuMemGetMemPool\0cuMemHostAlloc\0cuMemHostGetDevicePointer\0cuMemHostGetDevicePointer_v2\0cuMemHostGetFlags\0cuMemHostRegister\0cuMemHostRegister_v2\0cuMemHostUnregister\0cuMemImportFromShareableHandle\0cuMemMap\0cuMemMapArrayAsync\0cuMemMapArrayAsync_ptsz\0cuMemPoolCreate\0cuMemPoolDestroy\0cuMemPoolExportPointer\0cuMemPoolExportToShareableHandle\0cuMemPoolGetAccess\0cuMemPoolGetAttribute\0cuMemPoolImportFromShareableHandle\0cuMemPoolImportPointer\0cuMemPoolSetAccess\0cuMemPoolSetAttribute\0cuMemPoolTrimTo\0cuMemPrefetchAsync\0cuMemPrefetchAsync_ptsz\0cuMemPrefetchAsync_v2\0cuMemPrefetchAsync_v2_ptsz\0cuMemPrefetchBatchAsync\0cuMemPrefetchBatchAsync_ptsz\0cuMemRangeGetAttribute\0cuMemRangeGetAttributes\0cuMemRelease\0cuMemRetainAllocationHandle\0cuMemSetAccess\0cuMemSetMemPool\0cuMemUnmap\0cuMemcpy\0cuMemcpy2D\0cuMemcpy2DAsync\0cuMemcpy2DAsync_v2\0cuMemcpy2DAsync_v2_ptsz\0cuMemcpy2DUnaligned\0cuMemcpy2DUnaligned_v2\0cuMemcpy2DUnaligned_v2_ptds\0cuMemcpy2D_v2\0cuMemcpy2D_v2_ptds\0cuMemcpy3D\0cuMemcpy3DAsync\0cuMemcpy3DAsync_v2\0cuMemcpy3DAsync_v2_ptsz\0cuMemcpy3DBatchAsync\0cuMemcpy3DBatchAsync_ptsz\0cuMemcpy3DBatchAsync_v2\0cuMemcpy3DBatchAsync_v2_ptsz\0cuMemcpy3DPeer\0cuMemcpy3DPeerAsync\0cuMemcpy3DPeerAsync_ptsz\0cuMemcpy3DPeer_ptds\0cuMemcpy3DWithAttributesAsync\0cuMemcpy3D_v2\0cuMemcpy3D_v2_ptds\0cuMemcpyAsync\0cuMemcpyAsync_ptsz\0cuMemcpyAtoA\0cuMemcpyAtoA_v2\0cuMemcpyAtoA_v2_ptds\0cuMemcpyAtoD\0cuMemcpyAtoD_v2\0cuMemcpyAtoD_v2_ptds\0cuMemcpyAtoH\0cuMemcpyAtoHAsync\0cuMemcpyAtoHAsync_v2\0cuMemcpyAtoHAsync_v2_ptsz\0cuMemcpyAtoH_v2\0cuMemcpyAtoH_v2_ptds\0cuMemcpyBatchAsync\0cuMemcpyBatchAsync_ptsz\0cuMemcpyBatchAsync_v2\0cuMemcpyBatchAsync_v2_ptsz\0cuMemcpyDtoA\0cuMemcpyDtoA_v2\0cuMemcpyDtoA_v2_ptds\0cuMemcpyDtoD\0cuMemcpyDtoDAsync\0cuMemcpyDtoDAsync_v2\0cuMemcpyDtoDAsync_v2_ptsz\0cuMemcpyDtoD_v2\0cuMemcpyDtoD_v2_ptds\0cuMemcpyDtoH\0cuMemcpyDtoHAsync\0cuMemcpyDtoHAsync_v2\0cuMemcpyDtoHAsync_v2_ptsz\0cuMemcpyDtoH_v2\0cuMemcpyDtoH_v2_ptds\0cuMemcpyHtoA\0cuMemcpyHtoAAsync\0cuMemcpyHtoAAsync_v2\0cuMemcpyHtoAAsync_v2_ptsz\0cuMemcpyHtoA_v2\0cuMemcpyHtoA_v2_ptds\0cuMemcpyHtoD\0cuMemcpyHtoDAsync\0cuMemcpyHtoDAsync_v2\0cuMemcpyHtoDAsync_v2_ptsz\0cuMemcpyHtoD_v2\0cuMemcpyHtoD_v2_ptds\0cuMemcpyPeer\0cuMemcpyPeerAsync\0cuMemcpyPeerAsync_ptsz\0cuMemcpyPeer_ptds\0cuMemcpyWithAttributesAsync\0cuMemcpy_ptds\0cuMemsetD16\0cuMemsetD16Async\0cuMemsetD16Async_ptsz\0cuMemsetD16_v2\0cuMemsetD16_v2_ptds\0cuMemsetD2D16\0cuMemsetD2D16Async\0cuMemsetD2D16Async_ptsz\0cuMemsetD2D16_v2\0cuMemsetD2D16_v2_ptds\0cuMemsetD2D32\0cuMemsetD2D32Async\0cuMemsetD2D32Async_ptsz\0cuMemsetD2D32_v2\0cuMemsetD2D32_v2_ptds\0cuMemsetD2D8\0cuMemsetD2D8Async\0cuMemsetD2D8Async_ptsz\0cuMemsetD2D8_v2\0cuMemsetD2D8_v2_ptds\0cuMemsetD32\0cuMemsetD32Async\0cuMemsetD32Async_ptsz\0cuMemsetD32_v2\0cuMemsetD32_v2_ptds\0cuMemsetD8\0cuMemsetD8Async\0cuMemsetD8Async_ptsz\0cuMemsetD8_v2\0cuMemsetD8_v2_ptds\0cuMipmappedArrayCreate\0cuMipmappedArrayDestroy\0cuMipmappedArrayGetLevel\0cuMipmappedArrayGetMemoryRequirements\0cuMipmappedArrayGetSparseProperties\0cuModuleEnumerateFunctions\0cuModuleGetFunction\0cuModuleGetFunctionCount\0cuModuleGetGlobal\0cuModuleGetGlobal_v2\0cuModuleGetLoadingMode\0cuModuleGetSurfRef\0cuModuleGetTexRef\0cuModuleLoad\0cuModuleLoadData\0cuModuleLoadDataEx\0cuModuleLoadFatBinary\0cuModuleUnload\0cuMulticastAddDevice\0cuMulticastBindAddr\0cuMulticastBindAddr_v2\0cuMulticastBindMem\0cuMulticastBindMem_v2\0cuMulticastCreate\0cuMulticastGetGranularity\0cuMulticastUnbind\0cuOccupancyAvailableDynamicSMemPerBlock\0cuOccupancyMaxActiveBlocksPerMultiprocessor\0cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags\0cuOccupancyMaxActiveClusters\0cuOccupancyMaxPotentialBlockSize\0cuOccupancyMaxPotentialBlockSizeWithFlags\0cuOccupancyMaxPotentialClusterSize\0cuParamSetSize\0cuParamSetTexRef\0cuParamSetf\0cuParamSeti\0cuParamSetv\0cuPointerGetAttribute\0cuPointerGetAttributes\0cuPointerSetAttribute\0cuProfilerInitialize\0cuProfilerStart\0cuProfilerStop\0cuSignalExternalSemaphoresAsync\0cuSignalExternalSemaphoresAsync_ptsz\0cuStreamAddCallback\0cuStreamAddCallback_ptsz\0cuStreamAttachMemAsync\0cuStreamAttachMemAsync_ptsz\0cuStreamBatchMemOp\0cuStreamBatchMemOp_ptsz\0cuStreamBatchMemOp_v2\0cuStreamBatchMemOp_v2_ptsz\0cuStreamBeginCapture\0cuStreamBeginCaptureToCig\0cuStreamBeginCaptureToGraph\0cuStreamBeginCaptureToGraph_ptsz\0cuStreamBeginCapture_ptsz\0cuStreamBeginCapture_v2\0cuStreamBeginCapture_v2_ptsz\0cuStreamBeginRecaptureToGraph\0cuStreamCopyAttributes\0cuStreamCopyAttributes_ptsz\0cuStreamCreate\0cuStreamCreateWithPriority\0cuStreamDestroy\0cuStreamDestroy_v2\0cuStreamEndCapture\0cuStreamEndCaptureToCig\0cuStreamEndCapture_ptsz\0cuStreamGetAttribute\0cuStreamGetAttribute_ptsz\0cuStreamGetCaptureInfo\0cuStreamGetCaptureInfo_ptsz\0cuStreamGetCaptureInfo_v2\0cuStreamGetCaptureInfo_v2_ptsz\0cuStreamGetCaptureInfo_v3\0cuStreamGetCaptureInfo_v3_ptsz\0cuStreamGetCtx\0cuStreamGetCtx_ptsz\0cuStreamGetCtx_v2\0cuStreamGetCtx_v2_ptsz\0cuStreamGetDevResource\0cuStreamGetDevice\0cuStreamGetDevice_ptsz\0cuStreamGetFlags\0cuStreamGetFlags_ptsz\0cuStreamGetGreenCtx\0cuStreamGetId\0cuStreamGetId_ptsz\0cuStreamGetPriority\0cuStreamGetPriority_ptsz\0cuStreamIsCapturing\0cuStreamIsCapturing_ptsz\0cuStreamQuery\0cuStreamQuery_ptsz\0cuStreamSetAttribute\0cuStreamSetAttribute_ptsz\0cuStreamSynchronize\0cuStreamSynchronize_ptsz\0cuStreamUpdateCaptureDependencies\0cuStreamUpdateCaptureDependencies_ptsz\0cuStreamUpdateCaptureDependencies_v2\0cuStreamUpdateCaptureDependencies_v2_ptsz\0cuStreamWaitEvent\0cuStreamWaitEvent_ptsz\0cuStreamWaitValue32\0cuStreamWaitValue32_ptsz\0cuStreamWaitValue32_v2\0cuStreamWaitValue32_v2_ptsz\0cuStreamWaitValue64\0cuStreamWaitValue64_ptsz\0cuStreamWaitValue64_v2\0cuStreamWaitValue64_v2_ptsz\0cuStreamWriteValue32\0cuStreamWriteValue32_ptsz\0cuStreamWriteValue32_v2\0cuStreamWriteValue32_v2_ptsz\0cuStreamWriteValue64\0cuStreamWriteValue64_ptsz\0cuStreamWriteValue64_v2\0cuStreamWriteValue64_v2_ptsz\0cuSurfObjectCreate\0cuSurfObjectDestroy\0cuSurfObjectGetResourceDesc\0cuSurfRefGetArray\0cuSurfRefSetArray\0cuTensorMapEncodeIm2col\0cuTensorMapEncodeIm2colWide\0cuTensorMapEncodeTiled\0cuTensorMapReplaceAddress\0cuTensorMapSetAllocationClass\0cuTexObjectCreate\0cuTexObjectDestroy\0cuTexObjectGetResourceDesc\0cuTexObjectGetResourceViewDesc\0cuTexObjectGetTextureDesc\0cuTexRefCreate\0cuTexRefDestroy\0cuTexRefGetAddress\0cuTexRefGetAddressMode\0cuTexRefGetAddress_v2\0cuTexRefGetArray\0cuTexRefGetBorderColor\0cuTexRefGetFilterMode\0cuTexRefGetFlags\0cuTexRefGetFormat\0cuTexRefGetMaxAnisotropy\0cuTexRefGetMipmapFilterMode\0cuTexRefGetMipmapLevelBias\0cuTexRefGetMipmapLevelClamp\0cuTexRefGetMipmappedArray\0cuTexRefSetAddress\0cuTexRefSetAddress2D\0cuTexRefSetAddress2D_v2\0cuTexRefSetAddress2D_v3\0cuTexRefSetAddressMode\0cuTexRefSetAddress_v2\0cuTexRefSetArray\0cuTexRefSetBorderColor\0cuTexRefSetFilterMode\0cuTexRefSetFlags\0cuTexRefSetFormat\0cuTexRefSetMaxAnisotropy\0cuTexRefSetMipmapFilterMode\0cuTexRefSetMipmapLevelBias\0cuTexRefSetMipmapLevelClamp\0cuTexRefSetMipmappedArray\0cuThreadExchangeStreamCaptureMode\0cuUserObjectCreate\0cuUserObjectRelease\0cuUserObjectRetain\0cuVDPAUCtxCreate\0cuVDPAUCtxCreate_v2\0cuVDPAUGetDevice\0cuWaitExternalSemaphoresAsync\0cuWaitExternalSemaphoresAsync_ptsz\0nvmlComputeInstanceDestroy\0nvmlComputeInstanceGetInfo\0nvmlComputeInstanceGetInfo_v2\0nvmlDeviceClearAccountingPids\0nvmlDeviceClearCpuAffinity\0nvmlDeviceClearEccErrorCounts\0nvmlDeviceClearFieldValues\0nvmlDeviceCreateGpuInstance\0nvmlDeviceCreateGpuInstanceWithPlacement\0nvmlDeviceDiscoverGpus\0nvmlDeviceFreezeNvLinkUtilizationCounter\0nvmlDeviceGetAPIRestriction\0nvmlDeviceGetAccountingBufferSize\0nvmlDeviceGetAccountingMode\0nvmlDeviceGetAccountingPids\0nvmlDeviceGetAccountingStats\0nvmlDeviceGetAccountingStats_v2\0nvmlDeviceGetActiveVgpus\0nvmlDeviceGetAdaptiveClockInfoStatus\0nvmlDeviceGetAdaptiveTgpModeInfo_v1\0nvmlDeviceGetAddressingMode\0nvmlDeviceGetApplicationsClock\0nvmlDeviceGetArchitecture\0nvmlDeviceGetAttributes\0nvmlDeviceGetAttributes_v2\0nvmlDeviceGetAutoBoostedClocksEnabled\0nvmlDeviceGetBAR1MemoryInfo\0nvmlDeviceGetBBXTimeData_v1\0nvmlDeviceGetBankRemapperStatus_v1\0nvmlDeviceGetBoardId\0nvmlDeviceGetBoardPartNumber\0nvmlDeviceGetBrand\0nvmlDeviceGetBridgeChipInfo\0nvmlDeviceGetBusType\0nvmlDeviceGetC2cModeInfoV\0nvmlDeviceGetCapabilities\0nvmlDeviceGetClkMonStatus\0nvmlDeviceGetClock\0nvmlDeviceGetClockInfo\0nvmlDeviceGetClockOffsets\0nvmlDeviceGetComputeInstanceId\0nvmlDeviceGetComputeMode\0nvmlDeviceGetComputeRunningProcesses\0nvmlDeviceGetComputeRunningProcesses_v2\0nvmlDeviceGetComputeRunningProcesses_v3\0nvmlDeviceGetConfComputeGpuAttestationReport\0nvmlDeviceGetConfComputeGpuCertificate\0nvmlDeviceGetConfComputeMemSizeInfo\0nvmlDeviceGetConfComputeProtectedMemoryUsage\0nvmlDeviceGetCoolerInfo\0nvmlDeviceGetCount\0nvmlDeviceGetCount_v2\0nvmlDeviceGetCpuAffinity\0nvmlDeviceGetCpuAffinityWithinScope\0nvmlDeviceGetCreatableVgpus\0nvmlDeviceGetCudaComputeCapability\0nvmlDeviceGetCurrPcieLinkGeneration\0nvmlDeviceGetCurrPcieLinkWidth\0nvmlDeviceGetCurrentClockFreqs\0nvmlDeviceGetCurrentClocksEventReasons\0nvmlDeviceGetCurrentClocksThrottleReasons\0nvmlDeviceGetDecoderUtilization\0nvmlDeviceGetDefaultApplicationsClock\0nvmlDeviceGetDefaultEccMode\0nvmlDeviceGetDetailedEccErrors\0nvmlDeviceGetDeviceHandleFromMigDeviceHandle\0nvmlDeviceGetDisplayActive\0nvmlDeviceGetDisplayMode\0nvmlDeviceGetDramEncryptionMode\0nvmlDeviceGetDriverModel\0nvmlDeviceGetDriverModel_v2\0nvmlDeviceGetDynamicPstatesInfo\0nvmlDeviceGetEccMode\0nvmlDeviceGetEncoderCapacity\0nvmlDeviceGetEncoderSessions\0nvmlDeviceGetEncoderStats\0nvmlDeviceGetEncoderUtilization\0nvmlDeviceGetEnforcedPowerLimit\0nvmlDeviceGetFBCSessions\0nvmlDeviceGetFBCStats\0nvmlDeviceGetFanControlPolicy_v2\0nvmlDeviceGetFanSpeed\0nvmlDeviceGetFanSpeedRPM\0nvmlDeviceGetFanSpeed_v2\0nvmlDeviceGetFieldValues\0nvmlDeviceGetGpcClkMinMaxVfOffset\0nvmlDeviceGetGpcClkVfOffset\0nvmlDeviceGetGpuFabricInfo\0nvmlDeviceGetGpuFabricInfoV\0nvmlDeviceGetGpuFabricInfo_v4\0nvmlDeviceGetGpuInstanceById\0nvmlDeviceGetGpuInstanceId\0nvmlDeviceGetGpuInstancePossiblePlacements\0nvmlDeviceGetGpuInstancePossiblePlacements_v2\0nvmlDeviceGetGpuInstanceProfileInfo\0nvmlDeviceGetGpuInstanceProfileInfoByIdV\0nvmlDeviceGetGpuInstanceProfileInfoV\0nvmlDeviceGetGpuInstanceRemainingCapacity\0nvmlDeviceGetGpuInstances\0nvmlDeviceGetGpuMaxPcieLinkGeneration\0nvmlDeviceGetGpuOperationMode\0nvmlDeviceGetGraphicsRunningProcesses\0nvmlDeviceGetGraphicsRunningProcesses_v2\0nvmlDeviceGetGraphicsRunningProcesses_v3\0nvmlDeviceGetGridLicensableFeatures\0nvmlDeviceGetGridLicensableFeatures_v2\0nvmlDeviceGetGridLicensableFeatures_v3\0nvmlDeviceGetGridLicensableFeatures_v4\0nvmlDeviceGetGspFirmwareMode\0nvmlDeviceGetGspFirmwareVersion\0nvmlDeviceGetHandleByIndex\0nvmlDeviceGetHandleByIndex_v2\0nvmlDeviceGetHandleByPciBusId\0nvmlDeviceGetHandleByPciBusId_v2\0nvmlDeviceGetHandleBySerial\0nvmlDeviceGetHandleByUUID\0nvmlDeviceGetHandleByUUIDV\0nvmlDeviceGetHostVgpuMode\0nvmlDeviceGetHostname_v1\0nvmlDeviceGetIndex\0nvmlDeviceGetInforomConfigurationChecksum\0nvmlDeviceGetInforomImageVersion\0nvmlDeviceGetInforomVersion\0nvmlDeviceGetIrqNum\0nvmlDeviceGetJpgUtilization\0nvmlDeviceGetLastBBXFlushTime\0nvmlDeviceGetMPSComputeRunningProcesses\0nvmlDeviceGetMPSComputeRunningProcesses_v2\0nvmlDeviceGetMPSComputeRunningProcesses_v3\0nvmlDeviceGetMarginTemperature\0nvmlDeviceGetMaxClockInfo\0nvmlDeviceGetMaxCustomerBoostClock\0nvmlDeviceGetMaxMigDeviceCount\0nvmlDeviceGetMaxPcieLinkGeneration\0nvmlDeviceGetMaxPcieLinkWidth\0nvmlDeviceGetMemClkMinMaxVfOffset\0nvmlDeviceGetMemClkVfOffset\0nvmlDeviceGetMemoryAffinity\0nvmlDeviceGetMemoryBusWidth\0nvmlDeviceGetMemoryErrorCounter\0nvmlDeviceGetMemoryInfo\0nvmlDeviceGetMemoryInfo_v2\0nvmlDeviceGetMemoryLimits_v1\0nvmlDeviceGetMigDeviceHandleByIndex\0nvmlDeviceGetMigMode\0nvmlDeviceGetMinMaxClockOfPState\0nvmlDeviceGetMinMaxFanSpeed\0nvmlDeviceGetMinorNumber\0nvmlDeviceGetModuleId\0nvmlDeviceGetMultiGpuBoard\0nvmlDeviceGetName\0nvmlDeviceGetNumFans\0nvmlDeviceGetNumGpuCores\0nvmlDeviceGetNumaNodeId\0nvmlDeviceGetNvLinkCapability\0nvmlDeviceGetNvLinkErrorCounter\0nvmlDeviceGetNvLinkInfo\0nvmlDeviceGetNvLinkRemoteDeviceType\0nvmlDeviceGetNvLinkRemotePciInfo\0nvmlDeviceGetNvLinkRemotePciInfo_v2\0nvmlDeviceGetNvLinkState\0nvmlDeviceGetNvLinkTelemetrySamples_v1\0nvmlDeviceGetNvLinkUtilizationControl\0nvmlDeviceGetNvLinkUtilizationCounter\0nvmlDeviceGetNvLinkVersion\0nvmlDeviceGetNvlinkBwMode\0nvmlDeviceGetNvlinkSupportedBwModes\0nvmlDeviceGetOfaUtilization\0nvmlDeviceGetP2PStatus\0nvmlDeviceGetPciInfo\0nvmlDeviceGetPciInfoExt\0nvmlDeviceGetPciInfo_v2\0nvmlDeviceGetPciInfo_v3\0nvmlDeviceGetPcieLinkMaxSpeed\0nvmlDeviceGetPcieReplayCounter\0nvmlDeviceGetPcieSpeed\0nvmlDeviceGetPcieThroughput\0nvmlDeviceGetPdi\0nvmlDeviceGetPerformanceModes\0nvmlDeviceGetPerformanceState\0nvmlDeviceGetPersistenceMode\0nvmlDeviceGetPgpuMetadataString\0nvmlDeviceGetPlatformInfo\0nvmlDeviceGetPowerManagementDefaultLimit\0nvmlDeviceGetPowerManagementLimit\0nvmlDeviceGetPowerManagementLimitConstraints\0nvmlDeviceGetPowerManagementMode\0nvmlDeviceGetPowerMizerMode_v1\0nvmlDeviceGetPowerSource\0nvmlDeviceGetPowerState\0nvmlDeviceGetPowerUsage\0nvmlDeviceGetProcessUtilization\0nvmlDeviceGetProcessesUtilizationInfo\0nvmlDeviceGetRemappedRows\0nvmlDeviceGetRemappedRows_v2\0nvmlDeviceGetRepairStatus\0nvmlDeviceGetRetiredPages\0nvmlDeviceGetRetiredPagesPendingStatus\0nvmlDeviceGetRetiredPages_v2\0nvmlDeviceGetRowRemapperHistogram\0nvmlDeviceGetRunningProcessDetailList\0nvmlDeviceGetSamples\0nvmlDeviceGetSerial\0nvmlDeviceGetSramEccErrorStatus\0nvmlDeviceGetSramUniqueUncorrectedEccErrorCounts\0nvmlDeviceGetSupportedClocksEventReasons\0nvmlDeviceGetSupportedClocksThrottleReasons\0nvmlDeviceGetSupportedEventTypes\0nvmlDeviceGetSupportedGraphicsClocks\0nvmlDeviceGetSupportedMemoryClocks\0nvmlDeviceGetSupportedPerformanceStates\0nvmlDeviceGetSupportedVgpus\0nvmlDeviceGetTargetFanSpeed\0nvmlDeviceGetTemperature\0nvmlDeviceGetTemperatureThreshold\0nvmlDeviceGetTemperatureV\0nvmlDeviceGetThermalSettings\0nvmlDeviceGetTopologyCommonAncestor\0nvmlDeviceGetTopologyNearestGpus\0nvmlDeviceGetTotalEccErrors\0nvmlDeviceGetTotalEnergyConsumption\0nvmlDeviceGetUUID\0nvmlDeviceGetUnrepairableMemoryFlag_v1\0nvmlDeviceGetUtilizationRates\0nvmlDeviceGetVbiosVersion\0nvmlDeviceGetVgpuCapabilities\0nvmlDeviceGetVgpuHeterogeneousMode\0nvmlDeviceGetVgpuInstancesUtilizationInfo\0nvmlDeviceGetVgpuMetadata\0nvmlDeviceGetVgpuProcessUtilization\0nvmlDeviceGetVgpuProcessesUtilizationInfo\0nvmlDeviceGetVgpuSchedulerCapabilities\0nvmlDeviceGetVgpuSchedulerLog\0nvmlDeviceGetVgpuSchedulerLog_v2\0nvmlDeviceGetVgpuSchedulerState\0nvmlDeviceGetVgpuSchedulerState_v2\0nvmlDeviceGetVgpuTypeCreatablePlacements\0nvmlDeviceGetVgpuTypeSupportedPlacements\0nvmlDeviceGetVgpuUtilization\0nvmlDeviceGetViolationStatus\0nvmlDeviceGetVirtualizationMode\0nvmlDeviceIsMigDeviceHandle\0nvmlDeviceModifyDrainState\0nvmlDeviceOnSameBoard\0nvmlDevicePerfMetricsGetSamples_v1\0nvmlDevicePowerSmoothingActivatePresetProfile\0nvmlDevicePowerSmoothingSetState\0nvmlDevicePowerSmoothingUpdatePresetProfileParam\0nvmlDeviceQueryDrainState\0nvmlDeviceReadPRMCounters_v1\0nvmlDeviceReadWritePRM_v1\0nvmlDeviceRegisterEvents\0nvmlDeviceRemoveGpu\0nvmlDeviceRemoveGpu_v2\0nvmlDeviceResetApplicationsClocks\0nvmlDeviceResetGpuLockedClocks\0nvmlDeviceResetMemoryLockedClocks\0nvmlDeviceResetNvLinkErrorCounters\0nvmlDeviceResetNvLinkUtilizationCounter\0nvmlDeviceSetAPIRestriction\0nvmlDeviceSetAccountingMode\0nvmlDeviceSetAdaptiveTgpMode_v1\0nvmlDeviceSetApplicationsClocks\0nvmlDeviceSetAutoBoostedClocksEnabled\0nvmlDeviceSetClockOffsets\0nvmlDeviceSetComputeMode\0nvmlDeviceSetConfComputeUnprotectedMemSize\0nvmlDeviceSetCpuAffinity\0nvmlDeviceSetDefaultAutoBoostedClocksEnabled\0nvmlDeviceSetDefaultFanSpeed_v2\0nvmlDeviceSetDramEncryptionMode\0nvmlDeviceSetDriverModel\0nvmlDeviceSetEccMode\0nvmlDeviceSetFanControlPolicy\0nvmlDeviceSetFanSpeed_v2\0nvmlDeviceSetGpcClkVfOffset\0nvmlDeviceSetGpuLockedClocks\0nvmlDeviceSetGpuOperationMode\0nvmlDeviceSetHostname_v1\0nvmlDeviceSetMemClkVfOffset\0nvmlDeviceSetMemoryLimits_v1\0nvmlDeviceSetMemoryLockedClocks\0nvmlDeviceSetMigMode\0nvmlDeviceSetNvLinkDeviceLowPowerThreshold\0nvmlDeviceSetNvLinkUtilizationControl\0nvmlDeviceSetNvlinkBwMode\0nvmlDeviceSetNvlinkBwModeAsync_v1\0nvmlDeviceSetPersistenceMode\0nvmlDeviceSetPowerManagementLimit\0nvmlDeviceSetPowerManagementLimit_v2\0nvmlDeviceSetPowerMizerMode_v1\0nvmlDeviceSetRusdSettings_v1\0nvmlDeviceSetTemperatureThreshold\0nvmlDeviceSetVgpuCapabilities\0nvmlDeviceSetVgpuHeterogeneousMode\0nvmlDeviceSetVgpuSchedulerState\0nvmlDeviceSetVgpuSchedulerState_v2\0nvmlDeviceSetVirtualizationMode\0nvmlDeviceValidateInforom\0nvmlDeviceVgpuForceGspUnload\0nvmlDeviceWorkloadPowerProfileClearRequestedProfiles\0nvmlDeviceWorkloadPowerProfileGetCurrentProfiles\0nvmlDeviceWorkloadPowerProfileGetProfilesInfo\0nvmlDeviceWorkloadPowerProfileSetRequestedProfiles\0nvmlDeviceWorkloadPowerProfileUpdateProfiles_v1\0nvmlErrorString\0nvmlEventSetCreate\0nvmlEventSetFree\0nvmlEventSetGetContextCount_v1\0nvmlEventSetGetContextData_v1\0nvmlEventSetGetContextInfo_v1\0nvmlEventSetGetGpuOperationalEventContextLegacyXid_v1\0nvmlEventSetRegisterGpuOperationalEvents_v1\0nvmlEventSetWait\0nvmlEventSetWait_v2\0nvmlEventSetWait_v3\0nvmlGetBlacklistDeviceCount\0nvmlGetBlacklistDeviceInfoByIndex\0nvmlGetExcludedDeviceCount\0nvmlGetExcludedDeviceInfoByIndex\0nvmlGetVgpuCompatibility\0nvmlGetVgpuDriverCapabilities\0nvmlGetVgpuVersion\0nvmlGpmMetricsGet\0nvmlGpmMigSampleGet\0nvmlGpmQueryDeviceSupport\0nvmlGpmQueryIfStreamingEnabled\0nvmlGpmSampleAlloc\0nvmlGpmSampleFree\0nvmlGpmSampleGet\0nvmlGpmSetStreamingEnabled\0nvmlGpuInstanceCreateComputeInstance\0nvmlGpuInstanceCreateComputeInstanceWithPlacement\0nvmlGpuInstanceDestroy\0nvmlGpuInstanceGetActiveVgpus\0nvmlGpuInstanceGetComputeInstanceById\0nvmlGpuInstanceGetComputeInstancePossiblePlacements\0nvmlGpuInstanceGetComputeInstanceProfileInfo\0nvmlGpuInstanceGetComputeInstanceProfileInfoV\0nvmlGpuInstanceGetComputeInstanceRemainingCapacity\0nvmlGpuInstanceGetComputeInstances\0nvmlGpuInstanceGetCreatableVgpus\0nvmlGpuInstanceGetInfo\0nvmlGpuInstanceGetVgpuHeterogeneousMode\0nvmlGpuInstanceGetVgpuSchedulerLog\0nvmlGpuInstanceGetVgpuSchedulerLog_v2\0nvmlGpuInstanceGetVgpuSchedulerState\0nvmlGpuInstanceGetVgpuSchedulerState_v2\0nvmlGpuInstanceGetVgpuTypeCreatablePlacements\0nvmlGpuInstanceSetVgpuHeterogeneousMode\0nvmlGpuInstanceSetVgpuSchedulerState\0nvmlGpuInstanceSetVgpuSchedulerState_v2\0nvmlInit\0nvmlInitWithFlags\0nvmlInit_v2\0nvmlInternalGetExportTable\0nvmlSetVgpuVersion\0nvmlShutdown\0nvmlSystemEventSetCreate\0nvmlSystemEventSetFree\0nvmlSystemEventSetWait\0nvmlSystemGetCPER_v1\0nvmlSystemGetConfComputeCapabilities\0nvmlSystemGetConfComputeGpusReadyState\0nvmlSystemGetConfComputeKeyRotationThresholdInfo\0nvmlSystemGetConfComputeSettings\0nvmlSystemGetConfComputeState\0nvmlSystemGetCudaDriverVersion\0nvmlSystemGetCudaDriverVersion_v2\0nvmlSystemGetDriverBranch\0nvmlSystemGetDriverVersion\0nvmlSystemGetHicVersion\0nvmlSystemGetNVMLVersion\0nvmlSystemGetNvlinkBwMode\0nvmlSystemGetProcessName\0nvmlSystemGetTopologyGpuSet\0nvmlSystemRegisterEvents\0nvmlSystemSetConfComputeGpusReadyState\0nvmlSystemSetConfComputeKeyRotationThresholdInfo\0nvmlSystemSetNvlinkBwMode\0nvmlUnitGetCount\0nvmlUnitGetDevices\0nvmlUnitGetFanSpeedInfo\0nvmlUnitGetHandleByIndex\0nvmlUnitGetLedState\0nvmlUnitGetPsuInfo\0nvmlUnitGetTemperature\0nvmlUnitGetUnitInfo\0nvmlUnitSetLedState\0nvmlVgpuInstanceClearAccountingPids\0nvmlVgpuInstanceGetAccountingMode\0nvmlVgpuInstanceGetAccountingPids\0nvmlVgpuInstanceGetAccountingStats\0nvmlVgpuInstanceGetEccMode\0nvmlVgpuInstanceGetEncoderCapacity\0nvmlVgpuInstanceGetEncoderSessions\0nvmlVgpuInstanceGetEncoderStats\0nvmlVgpuInstanceGetFBCSessions\0nvmlVgpuInstanceGetFBCStats\0nvmlVgpuInstanceGetFbUsage\0nvmlVgpuInstanceGetFrameRateLimit\0nvmlVgpuInstanceGetGpuInstanceId\0nvmlVgpuInstanceGetGpuPciId\0nvmlVgpuInstanceGetLicenseInfo\0nvmlVgpuInstanceGetLicenseInfo_v2\0nvmlVgpuInstanceGetLicenseStatus\0nvmlVgpuInstanceGetMdevUUID\0nvmlVgpuInstanceGetMetadata\0nvmlVgpuInstanceGetPlacementId\0nvmlVgpuInstanceGetRuntimeStateSize\0nvmlVgpuInstanceGetType\0nvmlVgpuInstanceGetUUID\0nvmlVgpuInstanceGetVmDriverVersion\0nvmlVgpuInstanceGetVmID\0nvmlVgpuInstanceSetEncoderCapacity\0nvmlVgpuTypeGetBAR1Info\0nvmlVgpuTypeGetCapabilities\0nvmlVgpuTypeGetClass\0nvmlVgpuTypeGetDeviceID\0nvmlVgpuTypeGetFbReservation\0nvmlVgpuTypeGetFrameRateLimit\0nvmlVgpuTypeGetFramebufferSize\0nvmlVgpuTypeGetGpuInstanceProfileId\0nvmlVgpuTypeGetGspHeapSize\0nvmlVgpuTypeGetLicense\0nvmlVgpuTypeGetMaxInstances\0nvmlVgpuTypeGetMaxInstancesPerGpuInstance\0nvmlVgpuTypeGetMaxInstancesPerVm\0nvmlVgpuTypeGetName\0nvmlVgpuTypeGetNumDisplayHeads\0nvmlVgpuTypeGetResolution\0";

/// Where each name starts.
#[rustfmt::skip]
pub static OFFSETS: [u16; COUNT] = [0, 16, 35, 58, 84, 98, 115, 130, 151, 175, 204, 220, 247, 277, 307, 345, 373, 397, 424, 450, 487, 521, 544, 573, 608, 640, 663, 692, 704, 716, 731, 746, 761, 774, 790, 802, 825, 847, 865, 884, 904, 920, 940, 955, 973, 994, 1008, 1019, 1033, 1057, 1085, 1101, 1120, 1137, 1157, 1174, 1202, 1222, 1238, 1252, 1266, 1290, 1307, 1327, 1342, 1366, 1393, 1419, 1440, 1468, 1490, 1516, 1528, 1549, 1571, 1594, 1616, 1633, 1659, 1682, 1713, 1742, 1771, 1805, 1821, 1840, 1856, 1887, 1920, 1944, 1964, 1986, 2021, 2037, 2056, 2077, 2104, 2130, 2159, 2183, 2210, 2235, 2262, 2292, 2326, 2355, 2374, 2391, 2411, 2447, 2466, 2479, 2511, 2538, 2574, 2604, 2636, 2663, 2693, 2725, 2756, 2770, 2785, 2803, 2822, 2844, 2857, 2871, 2894, 2922, 2941, 2960, 2992, 3032, 3054, 3081, 3100, 3116, 3130, 3150, 3169, 3184, 3195, 3214, 3234, 3255, 3280, 3300, 3314, 3331, 3346, 3364, 3373, 3393, 3418, 3446, 3479, 3502, 3530, 3555, 3583, 3605, 3632, 3659, 3674, 3691, 3708, 3725, 3745, 3770, 3795, 3818, 3844, 3864, 3890, 3914, 3953, 3990, 4009, 4030, 4054, 4077, 4099, 4120, 4141, 4156, 4174, 4192, 4223, 4254, 4284, 4297, 4328, 4342, 4363, 4378, 4397, 4428, 4459, 4488, 4517, 4552, 4587, 4606, 4641, 4674, 4723, 4770, 4790, 4807, 4836, 4867, 4901, 4932, 4963, 4988, 5006, 5027, 5072, 5117, 5160, 5203, 5219, 5238, 5251, 5267, 5287, 5312, 5337, 5356, 5384, 5413, 5447, 5469, 5501, 5531, 5558, 5588, 5618, 5645, 5675, 5689, 5708, 5737, 5765, 5792, 5819, 5846, 5873, 5896, 5926, 5953, 5983, 6012, 6044, 6066, 6088, 6109, 6131, 6150, 6172, 6193, 6217, 6242, 6268, 6297, 6321, 6335, 6354, 6381, 6408, 6434, 6457, 6485, 6521, 6563, 6598, 6636, 6666, 6699, 6735, 6760, 6790, 6819, 6856, 6892, 6909, 6927, 6952, 6968, 6990, 7013, 7033, 7056, 7082, 7089, 7109, 7129, 7147, 7168, 7187, 7209, 7230, 7250, 7269, 7285, 7307, 7328, 7349, 7372, 7381, 7407, 7444, 7475, 7488, 7506, 7523, 7545, 7565, 7580, 7597, 7619, 7639, 7665, 7684, 7703, 7727, 7747, 7766, 7794, 7812, 7834, 7850, 7864, 7881, 7895, 7912, 7927, 7940, 7956, 7970, 7997, 8023, 8048, 8072, 8097, 8121, 8148, 8175, 8202, 8226, 8249, 8273, 8287, 8304, 8323, 8346, 8371, 8388, 8408, 8420, 8435, 8446, 8462, 8483, 8507, 8536, 8551, 8569, 8587, 8603, 8622, 8636, 8662, 8693, 8705, 8739, 8778, 8801, 8829, 8858, 8868, 8883, 8903, 8917, 8930, 8945, 8966, 8990, 9020, 9059, 9077, 9098, 9121, 9151, 9164, 9180, 9201, 9217, 9232, 9258, 9287, 9305, 9323, 9344, 9364, 9395, 9404, 9423, 9447, 9463, 9480, 9503, 9536, 9555, 9577, 9612, 9635, 9654, 9676, 9692, 9711, 9735, 9757, 9784, 9808, 9837, 9860, 9884, 9897, 9925, 9940, 9956, 9967, 9976, 9987, 10003, 10022, 10046, 10066, 10089, 10117, 10131, 10150, 10161, 10177, 10196, 10220, 10241, 10267, 10291, 10320, 10335, 10355, 10380, 10400, 10430, 10444, 10463, 10477, 10496, 10509, 10525, 10546, 10559, 10575, 10596, 10609, 10627, 10648, 10674, 10690, 10711, 10730, 10754, 10776, 10803, 10816, 10832, 10853, 10866, 10884, 10905, 10931, 10947, 10968, 10981, 10999, 11020, 11046, 11062, 11083, 11096, 11114, 11135, 11161, 11177, 11198, 11211, 11229, 11250, 11276, 11292, 11313, 11326, 11344, 11367, 11385, 11413, 11427, 11439, 11456, 11478, 11493, 11513, 11527, 11546, 11570, 11587, 11609, 11623, 11642, 11666, 11683, 11705, 11718, 11736, 11759, 11775, 11796, 11808, 11825, 11847, 11862, 11882, 11893, 11909, 11930, 11944, 11963, 11986, 12010, 12035, 12073, 12109, 12136, 12156, 12181, 12199, 12220, 12243, 12262, 12280, 12293, 12310, 12329, 12351, 12366, 12387, 12407, 12430, 12449, 12471, 12489, 12515, 12533, 12573, 12617, 12670, 12699, 12732, 12774, 12809, 12824, 12841, 12853, 12865, 12877, 12899, 12922, 12944, 12965, 12981, 12996, 13028, 13065, 13085, 13110, 13133, 13161, 13180, 13204, 13226, 13253, 13274, 13300, 13328, 13361, 13387, 13411, 13440, 13470, 13493, 13521, 13536, 13563, 13579, 13598, 13617, 13641, 13665, 13686, 13712, 13735, 13763, 13789, 13820, 13846, 13877, 13892, 13912, 13930, 13953, 13976, 13994, 14017, 14034, 14056, 14076, 14090, 14109, 14129, 14154, 14174, 14199, 14213, 14232, 14253, 14279, 14299, 14324, 14358, 14397, 14434, 14476, 14494, 14517, 14537, 14562, 14585, 14613, 14633, 14658, 14681, 14709, 14730, 14756, 14780, 14809, 14830, 14856, 14880, 14909, 14928, 14948, 14976, 14994, 15012, 15036, 15064, 15087, 15113, 15143, 15161, 15180, 15207, 15238, 15264, 15279, 15295, 15314, 15337, 15359, 15376, 15399, 15421, 15438, 15456, 15481, 15509, 15536, 15564, 15590, 15609, 15630, 15654, 15678, 15701, 15723, 15740, 15763, 15785, 15802, 15820, 15845, 15873, 15900, 15928, 15954, 15988, 16007, 16027, 16046, 16063, 16083, 16100, 16130, 16165, 16192, 16219, 16249, 16279, 16306, 16336, 16363, 16391, 16432, 16455, 16496, 16524, 16558, 16586, 16614, 16643, 16675, 16700, 16737, 16773, 16801, 16832, 16858, 16882, 16909, 16947, 16975, 17003, 17038, 17059, 17088, 17107, 17135, 17156, 17182, 17208, 17234, 17253, 17276, 17302, 17333, 17358, 17395, 17435, 17475, 17520, 17559, 17595, 17640, 17664, 17683, 17705, 17730, 17766, 17794, 17829, 17865, 17896, 17927, 17966, 18008, 18040, 18078, 18106, 18137, 18182, 18209, 18234, 18266, 18291, 18319, 18351, 18372, 18401, 18430, 18456, 18488, 18520, 18545, 18567, 18600, 18622, 18647, 18672, 18697, 18731, 18759, 18786, 18814, 18844, 18873, 18900, 18943, 18989, 19025, 19066, 19103, 19145, 19171, 19209, 19239, 19277, 19318, 19359, 19395, 19434, 19473, 19512, 19541, 19573, 19600, 19630, 19660, 19693, 19721, 19747, 19774, 19800, 19825, 19844, 19886, 19919, 19947, 19967, 19995, 20025, 20065, 20108, 20151, 20182, 20208, 20243, 20274, 20309, 20339, 20373, 20401, 20429, 20457, 20489, 20513, 20540, 20569, 20605, 20626, 20659, 20687, 20712, 20734, 20761, 20779, 20800, 20825, 20849, 20879, 20911, 20935, 20971, 21004, 21040, 21065, 21104, 21142, 21180, 21207, 21233, 21269, 21297, 21320, 21341, 21365, 21389, 21413, 21443, 21474, 21497, 21525, 21542, 21572, 21602, 21631, 21663, 21689, 21730, 21764, 21809, 21842, 21873, 21898, 21922, 21946, 21978, 22016, 22042, 22071, 22097, 22123, 22162, 22191, 22225, 22263, 22284, 22304, 22336, 22385, 22426, 22470, 22503, 22540, 22575, 22615, 22643, 22671, 22696, 22730, 22756, 22785, 22821, 22854, 22882, 22918, 22936, 22975, 23005, 23031, 23061, 23096, 23138, 23164, 23200, 23242, 23281, 23311, 23344, 23376, 23411, 23452, 23493, 23522, 23551, 23583, 23611, 23638, 23660, 23695, 23741, 23774, 23823, 23849, 23878, 23904, 23929, 23949, 23972, 24006, 24037, 24071, 24106, 24146, 24174, 24202, 24234, 24266, 24304, 24330, 24355, 24398, 24423, 24468, 24500, 24532, 24557, 24578, 24608, 24633, 24661, 24690, 24720, 24745, 24773, 24802, 24834, 24855, 24898, 24936, 24962, 24996, 25025, 25059, 25096, 25127, 25156, 25190, 25220, 25255, 25287, 25322, 25354, 25380, 25409, 25462, 25511, 25557, 25608, 25656, 25672, 25691, 25708, 25739, 25769, 25799, 25853, 25897, 25914, 25934, 25954, 25982, 26016, 26043, 26076, 26101, 26131, 26150, 26168, 26188, 26214, 26245, 26264, 26282, 26299, 26326, 26363, 26413, 26436, 26466, 26504, 26556, 26601, 26647, 26698, 26733, 26766, 26789, 26829, 26864, 26902, 26939, 26979, 27025, 27065, 27102, 27142, 27151, 27169, 27181, 27208, 27227, 27240, 27265, 27288, 27311, 27332, 27369, 27408, 27457, 27490, 27520, 27551, 27585, 27611, 27638, 27662, 27687, 27713, 27738, 27766, 27791, 27830, 27879, 27905, 27922, 27941, 27965, 27990, 28010, 28029, 28052, 28072, 28092, 28128, 28162, 28196, 28231, 28258, 28293, 28328, 28360, 28391, 28419, 28446, 28480, 28513, 28541, 28572, 28606, 28639, 28667, 28695, 28726, 28762, 28786, 28810, 28845, 28869, 28904, 28928, 28956, 28977, 29001, 29030, 29060, 29091, 29127, 29154, 29177, 29205, 29247, 29280, 29300, 29331];

/// The numbers of the hooked names.
#[allow(non_upper_case_globals, missing_docs)]
pub mod index {
    pub const cuArray3DCreate: usize = 0;
    pub const cuArray3DCreate_v2: usize = 1;
    pub const cuArrayCreate: usize = 4;
    pub const cuArrayCreate_v2: usize = 5;
    pub const cuArrayDestroy: usize = 6;
    pub const cuCtxCreate: usize = 28;
    pub const cuCtxCreate_v2: usize = 29;
    pub const cuCtxCreate_v3: usize = 30;
    pub const cuCtxCreate_v4: usize = 31;
    pub const cuCtxDestroy: usize = 32;
    pub const cuCtxDestroy_v2: usize = 33;
    pub const cuCtxDetach: usize = 34;
    pub const cuCtxGetCurrent: usize = 40;
    pub const cuCtxGetDevResource: usize = 41;
    pub const cuCtxGetId: usize = 46;
    pub const cuCtxPopCurrent: usize = 50;
    pub const cuCtxPopCurrent_v2: usize = 51;
    pub const cuCtxPushCurrent: usize = 52;
    pub const cuCtxPushCurrent_v2: usize = 53;
    pub const cuCtxSetCurrent: usize = 57;
    pub const cuCtxSetLimit: usize = 59;
    pub const cuCtxSynchronize: usize = 61;
    pub const cuCtxSynchronize_v2: usize = 62;
    pub const cuDestroyExternalMemory: usize = 64;
    pub const cuDeviceGetAttribute: usize = 72;
    pub const cuDeviceGetDevResource: usize = 78;
    pub const cuDeviceGraphMemTrim: usize = 94;
    pub const cuDevicePrimaryCtxRelease: usize = 96;
    pub const cuDevicePrimaryCtxRelease_v2: usize = 97;
    pub const cuDevicePrimaryCtxReset: usize = 98;
    pub const cuDevicePrimaryCtxReset_v2: usize = 99;
    pub const cuDevicePrimaryCtxRetain: usize = 100;
    pub const cuDeviceSetMemPool: usize = 105;
    pub const cuDeviceTotalMem: usize = 106;
    pub const cuDeviceTotalMem_v2: usize = 107;
    pub const cuEventSynchronize: usize = 130;
    pub const cuGetProcAddress: usize = 166;
    pub const cuGetProcAddress_v2: usize = 167;
    pub const cuGraphAddKernelNode: usize = 178;
    pub const cuGraphAddKernelNode_v2: usize = 179;
    pub const cuGraphAddMemAllocNode: usize = 180;
    pub const cuGraphAddNode: usize = 184;
    pub const cuGraphAddNode_v2: usize = 185;
    pub const cuGraphAddNode_v3: usize = 186;
    pub const cuGraphExecDestroy: usize = 202;
    pub const cuGraphExecKernelNodeSetParams: usize = 210;
    pub const cuGraphExecKernelNodeSetParams_v2: usize = 211;
    pub const cuGraphExecNodeSetParams: usize = 214;
    pub const cuGraphExecUpdate: usize = 215;
    pub const cuGraphExecUpdate_v2: usize = 216;
    pub const cuGraphInstantiate: usize = 228;
    pub const cuGraphInstantiateWithFlags: usize = 229;
    pub const cuGraphInstantiateWithParams: usize = 230;
    pub const cuGraphInstantiateWithParams_ptsz: usize = 231;
    pub const cuGraphInstantiate_v2: usize = 232;
    pub const cuGraphKernelNodeSetParams: usize = 238;
    pub const cuGraphKernelNodeSetParams_v2: usize = 239;
    pub const cuGraphLaunch: usize = 240;
    pub const cuGraphLaunch_ptsz: usize = 241;
    pub const cuGraphNodeSetParams: usize = 260;
    pub const cuGraphNodeSetParams_v2: usize = 261;
    pub const cuGraphUpload: usize = 266;
    pub const cuGraphUpload_ptsz: usize = 267;
    pub const cuGreenCtxCreate: usize = 285;
    pub const cuGreenCtxDestroy: usize = 286;
    pub const cuImportExternalMemory: usize = 292;
    pub const cuInit: usize = 294;
    pub const cuIpcCloseMemHandle: usize = 295;
    pub const cuIpcGetMemHandle: usize = 297;
    pub const cuIpcOpenMemHandle: usize = 299;
    pub const cuIpcOpenMemHandle_v2: usize = 300;
    pub const cuLaunch: usize = 309;
    pub const cuLaunchCooperativeKernel: usize = 310;
    pub const cuLaunchCooperativeKernelMultiDevice: usize = 311;
    pub const cuLaunchCooperativeKernel_ptsz: usize = 312;
    pub const cuLaunchGrid: usize = 313;
    pub const cuLaunchGridAsync: usize = 314;
    pub const cuLaunchKernel: usize = 318;
    pub const cuLaunchKernelEx: usize = 319;
    pub const cuLaunchKernelEx_ptsz: usize = 320;
    pub const cuLaunchKernel_ptsz: usize = 321;
    pub const cuLibraryGetGlobal: usize = 323;
    pub const cuLibraryGetKernel: usize = 324;
    pub const cuLibraryGetManaged: usize = 326;
    pub const cuLibraryGetModule: usize = 327;
    pub const cuLibraryLoadData: usize = 329;
    pub const cuLibraryLoadFromFile: usize = 330;
    pub const cuLibraryUnload: usize = 331;
    pub const cuMemAlloc: usize = 361;
    pub const cuMemAllocAsync: usize = 362;
    pub const cuMemAllocAsync_ptsz: usize = 363;
    pub const cuMemAllocFromPoolAsync: usize = 364;
    pub const cuMemAllocFromPoolAsync_ptsz: usize = 365;
    pub const cuMemAllocHost: usize = 366;
    pub const cuMemAllocHost_v2: usize = 367;
    pub const cuMemAllocManaged: usize = 368;
    pub const cuMemAllocPitch: usize = 369;
    pub const cuMemAllocPitch_v2: usize = 370;
    pub const cuMemAlloc_v2: usize = 371;
    pub const cuMemBatchDecompressAsync: usize = 372;
    pub const cuMemBatchDecompressAsync_ptsz: usize = 373;
    pub const cuMemCreate: usize = 374;
    pub const cuMemDiscardAndPrefetchBatchAsync: usize = 375;
    pub const cuMemDiscardAndPrefetchBatchAsync_ptsz: usize = 376;
    pub const cuMemExportToShareableHandle: usize = 379;
    pub const cuMemFree: usize = 380;
    pub const cuMemFreeAsync: usize = 381;
    pub const cuMemFreeAsync_ptsz: usize = 382;
    pub const cuMemFreeHost: usize = 383;
    pub const cuMemFree_v2: usize = 384;
    pub const cuMemGetInfo: usize = 394;
    pub const cuMemGetInfo_v2: usize = 395;
    pub const cuMemHostAlloc: usize = 398;
    pub const cuMemHostRegister: usize = 402;
    pub const cuMemHostRegister_v2: usize = 403;
    pub const cuMemHostUnregister: usize = 404;
    pub const cuMemImportFromShareableHandle: usize = 405;
    pub const cuMemMap: usize = 406;
    pub const cuMemPoolCreate: usize = 409;
    pub const cuMemPoolDestroy: usize = 410;
    pub const cuMemPoolTrimTo: usize = 419;
    pub const cuMemPrefetchAsync: usize = 420;
    pub const cuMemPrefetchAsync_ptsz: usize = 421;
    pub const cuMemPrefetchAsync_v2: usize = 422;
    pub const cuMemPrefetchAsync_v2_ptsz: usize = 423;
    pub const cuMemPrefetchBatchAsync: usize = 424;
    pub const cuMemPrefetchBatchAsync_ptsz: usize = 425;
    pub const cuMemRelease: usize = 428;
    pub const cuMemRetainAllocationHandle: usize = 429;
    pub const cuMemSetMemPool: usize = 431;
    pub const cuMemUnmap: usize = 432;
    pub const cuMemcpy: usize = 433;
    pub const cuMemcpy2D: usize = 434;
    pub const cuMemcpy2DAsync: usize = 435;
    pub const cuMemcpy2DAsync_v2: usize = 436;
    pub const cuMemcpy2DAsync_v2_ptsz: usize = 437;
    pub const cuMemcpy2DUnaligned: usize = 438;
    pub const cuMemcpy2DUnaligned_v2: usize = 439;
    pub const cuMemcpy2DUnaligned_v2_ptds: usize = 440;
    pub const cuMemcpy2D_v2: usize = 441;
    pub const cuMemcpy2D_v2_ptds: usize = 442;
    pub const cuMemcpy3D: usize = 443;
    pub const cuMemcpy3DAsync: usize = 444;
    pub const cuMemcpy3DAsync_v2: usize = 445;
    pub const cuMemcpy3DAsync_v2_ptsz: usize = 446;
    pub const cuMemcpy3DBatchAsync: usize = 447;
    pub const cuMemcpy3DBatchAsync_ptsz: usize = 448;
    pub const cuMemcpy3DBatchAsync_v2: usize = 449;
    pub const cuMemcpy3DBatchAsync_v2_ptsz: usize = 450;
    pub const cuMemcpy3DPeer: usize = 451;
    pub const cuMemcpy3DPeerAsync: usize = 452;
    pub const cuMemcpy3DPeerAsync_ptsz: usize = 453;
    pub const cuMemcpy3DPeer_ptds: usize = 454;
    pub const cuMemcpy3DWithAttributesAsync: usize = 455;
    pub const cuMemcpy3D_v2: usize = 456;
    pub const cuMemcpy3D_v2_ptds: usize = 457;
    pub const cuMemcpyAsync: usize = 458;
    pub const cuMemcpyAsync_ptsz: usize = 459;
    pub const cuMemcpyAtoA: usize = 460;
    pub const cuMemcpyAtoA_v2: usize = 461;
    pub const cuMemcpyAtoA_v2_ptds: usize = 462;
    pub const cuMemcpyAtoD: usize = 463;
    pub const cuMemcpyAtoD_v2: usize = 464;
    pub const cuMemcpyAtoD_v2_ptds: usize = 465;
    pub const cuMemcpyAtoH: usize = 466;
    pub const cuMemcpyAtoHAsync: usize = 467;
    pub const cuMemcpyAtoHAsync_v2: usize = 468;
    pub const cuMemcpyAtoHAsync_v2_ptsz: usize = 469;
    pub const cuMemcpyAtoH_v2: usize = 470;
    pub const cuMemcpyAtoH_v2_ptds: usize = 471;
    pub const cuMemcpyBatchAsync: usize = 472;
    pub const cuMemcpyBatchAsync_ptsz: usize = 473;
    pub const cuMemcpyBatchAsync_v2: usize = 474;
    pub const cuMemcpyBatchAsync_v2_ptsz: usize = 475;
    pub const cuMemcpyDtoA: usize = 476;
    pub const cuMemcpyDtoA_v2: usize = 477;
    pub const cuMemcpyDtoA_v2_ptds: usize = 478;
    pub const cuMemcpyDtoD: usize = 479;
    pub const cuMemcpyDtoDAsync: usize = 480;
    pub const cuMemcpyDtoDAsync_v2: usize = 481;
    pub const cuMemcpyDtoDAsync_v2_ptsz: usize = 482;
    pub const cuMemcpyDtoD_v2: usize = 483;
    pub const cuMemcpyDtoD_v2_ptds: usize = 484;
    pub const cuMemcpyDtoH: usize = 485;
    pub const cuMemcpyDtoHAsync: usize = 486;
    pub const cuMemcpyDtoHAsync_v2: usize = 487;
    pub const cuMemcpyDtoHAsync_v2_ptsz: usize = 488;
    pub const cuMemcpyDtoH_v2: usize = 489;
    pub const cuMemcpyDtoH_v2_ptds: usize = 490;
    pub const cuMemcpyHtoA: usize = 491;
    pub const cuMemcpyHtoAAsync: usize = 492;
    pub const cuMemcpyHtoAAsync_v2: usize = 493;
    pub const cuMemcpyHtoAAsync_v2_ptsz: usize = 494;
    pub const cuMemcpyHtoA_v2: usize = 495;
    pub const cuMemcpyHtoA_v2_ptds: usize = 496;
    pub const cuMemcpyHtoD: usize = 497;
    pub const cuMemcpyHtoDAsync: usize = 498;
    pub const cuMemcpyHtoDAsync_v2: usize = 499;
    pub const cuMemcpyHtoDAsync_v2_ptsz: usize = 500;
    pub const cuMemcpyHtoD_v2: usize = 501;
    pub const cuMemcpyHtoD_v2_ptds: usize = 502;
    pub const cuMemcpyPeer: usize = 503;
    pub const cuMemcpyPeerAsync: usize = 504;
    pub const cuMemcpyPeerAsync_ptsz: usize = 505;
    pub const cuMemcpyPeer_ptds: usize = 506;
    pub const cuMemcpyWithAttributesAsync: usize = 507;
    pub const cuMemcpy_ptds: usize = 508;
    pub const cuMemsetD16: usize = 509;
    pub const cuMemsetD16Async: usize = 510;
    pub const cuMemsetD16Async_ptsz: usize = 511;
    pub const cuMemsetD16_v2: usize = 512;
    pub const cuMemsetD16_v2_ptds: usize = 513;
    pub const cuMemsetD2D16: usize = 514;
    pub const cuMemsetD2D16Async: usize = 515;
    pub const cuMemsetD2D16Async_ptsz: usize = 516;
    pub const cuMemsetD2D16_v2: usize = 517;
    pub const cuMemsetD2D16_v2_ptds: usize = 518;
    pub const cuMemsetD2D32: usize = 519;
    pub const cuMemsetD2D32Async: usize = 520;
    pub const cuMemsetD2D32Async_ptsz: usize = 521;
    pub const cuMemsetD2D32_v2: usize = 522;
    pub const cuMemsetD2D32_v2_ptds: usize = 523;
    pub const cuMemsetD2D8: usize = 524;
    pub const cuMemsetD2D8Async: usize = 525;
    pub const cuMemsetD2D8Async_ptsz: usize = 526;
    pub const cuMemsetD2D8_v2: usize = 527;
    pub const cuMemsetD2D8_v2_ptds: usize = 528;
    pub const cuMemsetD32: usize = 529;
    pub const cuMemsetD32Async: usize = 530;
    pub const cuMemsetD32Async_ptsz: usize = 531;
    pub const cuMemsetD32_v2: usize = 532;
    pub const cuMemsetD32_v2_ptds: usize = 533;
    pub const cuMemsetD8: usize = 534;
    pub const cuMemsetD8Async: usize = 535;
    pub const cuMemsetD8Async_ptsz: usize = 536;
    pub const cuMemsetD8_v2: usize = 537;
    pub const cuMemsetD8_v2_ptds: usize = 538;
    pub const cuMipmappedArrayCreate: usize = 539;
    pub const cuMipmappedArrayDestroy: usize = 540;
    pub const cuModuleLoad: usize = 552;
    pub const cuModuleLoadData: usize = 553;
    pub const cuModuleLoadDataEx: usize = 554;
    pub const cuModuleLoadFatBinary: usize = 555;
    pub const cuModuleUnload: usize = 556;
    pub const cuStreamBeginCapture: usize = 593;
    pub const cuStreamBeginCaptureToCig: usize = 594;
    pub const cuStreamBeginCaptureToGraph: usize = 595;
    pub const cuStreamBeginCaptureToGraph_ptsz: usize = 596;
    pub const cuStreamBeginCapture_ptsz: usize = 597;
    pub const cuStreamBeginCapture_v2: usize = 598;
    pub const cuStreamBeginCapture_v2_ptsz: usize = 599;
    pub const cuStreamBeginRecaptureToGraph: usize = 600;
    pub const cuStreamDestroy: usize = 605;
    pub const cuStreamDestroy_v2: usize = 606;
    pub const cuStreamEndCapture: usize = 607;
    pub const cuStreamEndCaptureToCig: usize = 608;
    pub const cuStreamEndCapture_ptsz: usize = 609;
    pub const cuStreamGetCtx: usize = 618;
    pub const cuStreamGetCtx_ptsz: usize = 619;
    pub const cuStreamGetCtx_v2: usize = 620;
    pub const cuStreamGetCtx_v2_ptsz: usize = 621;
    pub const cuStreamGetGreenCtx: usize = 627;
    pub const cuStreamSynchronize: usize = 638;
    pub const cuStreamSynchronize_ptsz: usize = 639;
    pub const nvmlDeviceGetAccountingPids: usize = 731;
    pub const nvmlDeviceGetComputeRunningProcesses: usize = 759;
    pub const nvmlDeviceGetComputeRunningProcesses_v2: usize = 760;
    pub const nvmlDeviceGetComputeRunningProcesses_v3: usize = 761;
    pub const nvmlDeviceGetCount: usize = 767;
    pub const nvmlDeviceGetCount_v2: usize = 768;
    pub const nvmlDeviceGetGraphicsRunningProcesses: usize = 818;
    pub const nvmlDeviceGetGraphicsRunningProcesses_v2: usize = 819;
    pub const nvmlDeviceGetGraphicsRunningProcesses_v3: usize = 820;
    pub const nvmlDeviceGetHandleByIndex: usize = 827;
    pub const nvmlDeviceGetHandleByIndex_v2: usize = 828;
    pub const nvmlDeviceGetHandleByPciBusId: usize = 829;
    pub const nvmlDeviceGetHandleByPciBusId_v2: usize = 830;
    pub const nvmlDeviceGetHandleBySerial: usize = 831;
    pub const nvmlDeviceGetHandleByUUID: usize = 832;
    pub const nvmlDeviceGetHandleByUUIDV: usize = 833;
    pub const nvmlDeviceGetIndex: usize = 836;
    pub const nvmlDeviceGetMPSComputeRunningProcesses: usize = 843;
    pub const nvmlDeviceGetMPSComputeRunningProcesses_v2: usize = 844;
    pub const nvmlDeviceGetMPSComputeRunningProcesses_v3: usize = 845;
    pub const nvmlDeviceGetMemoryInfo: usize = 857;
    pub const nvmlDeviceGetMemoryInfo_v2: usize = 858;
    pub const nvmlDeviceGetProcessUtilization: usize = 908;
    pub const nvmlDeviceGetProcessesUtilizationInfo: usize = 909;
    pub const nvmlDeviceGetRunningProcessDetailList: usize = 917;
    pub const nvmlDeviceGetUtilizationRates: usize = 940;
    pub const nvmlInit: usize = 1069;
    pub const nvmlInitWithFlags: usize = 1070;
    pub const nvmlInit_v2: usize = 1071;
}

/// The CUDA names that must not be handed out to anybody as they are: number and export.
pub static REPLACED: [(u16, Export); 271] = [
    (0, Export(crate::hooks::cuArray3DCreate as *const c_void)),
    (1, Export(crate::hooks::cuArray3DCreate_v2 as *const c_void)),
    (4, Export(crate::hooks::cuArrayCreate as *const c_void)),
    (5, Export(crate::hooks::cuArrayCreate_v2 as *const c_void)),
    (6, Export(crate::hooks::cuArrayDestroy as *const c_void)),
    (12, Export(cuCheckpointOperationComplete as *const c_void)),
    (13, Export(cuCheckpointProcessCheckpoint as *const c_void)),
    (14, Export(cuCheckpointProcessGetRestoreThreadId as *const c_void)),
    (15, Export(cuCheckpointProcessGetState as *const c_void)),
    (16, Export(cuCheckpointProcessLock as *const c_void)),
    (17, Export(cuCheckpointProcessRestore as *const c_void)),
    (18, Export(cuCheckpointProcessUnlock as *const c_void)),
    (28, Export(crate::hooks::cuCtxCreate as *const c_void)),
    (29, Export(crate::hooks::cuCtxCreate_v2 as *const c_void)),
    (30, Export(crate::hooks::cuCtxCreate_v3 as *const c_void)),
    (31, Export(crate::hooks::cuCtxCreate_v4 as *const c_void)),
    (32, Export(crate::hooks::cuCtxDestroy as *const c_void)),
    (33, Export(crate::hooks::cuCtxDestroy_v2 as *const c_void)),
    (34, Export(crate::hooks::cuCtxDetach as *const c_void)),
    (40, Export(crate::hooks::cuCtxGetCurrent as *const c_void)),
    (41, Export(crate::hooks::cuCtxGetDevResource as *const c_void)),
    (46, Export(crate::hooks::cuCtxGetId as *const c_void)),
    (50, Export(crate::hooks::cuCtxPopCurrent as *const c_void)),
    (51, Export(crate::hooks::cuCtxPopCurrent_v2 as *const c_void)),
    (52, Export(crate::hooks::cuCtxPushCurrent as *const c_void)),
    (53, Export(crate::hooks::cuCtxPushCurrent_v2 as *const c_void)),
    (57, Export(crate::hooks::cuCtxSetCurrent as *const c_void)),
    (59, Export(crate::hooks::cuCtxSetLimit as *const c_void)),
    (61, Export(crate::hooks::cuCtxSynchronize as *const c_void)),
    (62, Export(crate::hooks::cuCtxSynchronize_v2 as *const c_void)),
    (64, Export(crate::hooks::cuDestroyExternalMemory as *const c_void)),
    (72, Export(crate::hooks::cuDeviceGetAttribute as *const c_void)),
    (78, Export(crate::hooks::cuDeviceGetDevResource as *const c_void)),
    (94, Export(crate::hooks::cuDeviceGraphMemTrim as *const c_void)),
    (96, Export(crate::hooks::cuDevicePrimaryCtxRelease as *const c_void)),
    (97, Export(crate::hooks::cuDevicePrimaryCtxRelease_v2 as *const c_void)),
    (98, Export(crate::hooks::cuDevicePrimaryCtxReset as *const c_void)),
    (99, Export(crate::hooks::cuDevicePrimaryCtxReset_v2 as *const c_void)),
    (100, Export(crate::hooks::cuDevicePrimaryCtxRetain as *const c_void)),
    (105, Export(crate::hooks::cuDeviceSetMemPool as *const c_void)),
    (106, Export(crate::hooks::cuDeviceTotalMem as *const c_void)),
    (107, Export(crate::hooks::cuDeviceTotalMem_v2 as *const c_void)),
    (130, Export(crate::hooks::cuEventSynchronize as *const c_void)),
    (166, Export(crate::hooks::cuGetProcAddress as *const c_void)),
    (167, Export(crate::hooks::cuGetProcAddress_v2 as *const c_void)),
    (178, Export(crate::hooks::cuGraphAddKernelNode as *const c_void)),
    (179, Export(crate::hooks::cuGraphAddKernelNode_v2 as *const c_void)),
    (180, Export(crate::hooks::cuGraphAddMemAllocNode as *const c_void)),
    (184, Export(crate::hooks::cuGraphAddNode as *const c_void)),
    (185, Export(crate::hooks::cuGraphAddNode_v2 as *const c_void)),
    (186, Export(crate::hooks::cuGraphAddNode_v3 as *const c_void)),
    (202, Export(crate::hooks::cuGraphExecDestroy as *const c_void)),
    (210, Export(crate::hooks::cuGraphExecKernelNodeSetParams as *const c_void)),
    (211, Export(crate::hooks::cuGraphExecKernelNodeSetParams_v2 as *const c_void)),
    (214, Export(crate::hooks::cuGraphExecNodeSetParams as *const c_void)),
    (215, Export(crate::hooks::cuGraphExecUpdate as *const c_void)),
    (216, Export(crate::hooks::cuGraphExecUpdate_v2 as *const c_void)),
    (228, Export(crate::hooks::cuGraphInstantiate as *const c_void)),
    (229, Export(crate::hooks::cuGraphInstantiateWithFlags as *const c_void)),
    (230, Export(crate::hooks::cuGraphInstantiateWithParams as *const c_void)),
    (231, Export(crate::hooks::cuGraphInstantiateWithParams_ptsz as *const c_void)),
    (232, Export(crate::hooks::cuGraphInstantiate_v2 as *const c_void)),
    (238, Export(crate::hooks::cuGraphKernelNodeSetParams as *const c_void)),
    (239, Export(crate::hooks::cuGraphKernelNodeSetParams_v2 as *const c_void)),
    (240, Export(crate::hooks::cuGraphLaunch as *const c_void)),
    (241, Export(crate::hooks::cuGraphLaunch_ptsz as *const c_void)),
    (260, Export(crate::hooks::cuGraphNodeSetParams as *const c_void)),
    (261, Export(crate::hooks::cuGraphNodeSetParams_v2 as *const c_void)),
    (266, Export(crate::hooks::cuGraphUpload as *const c_void)),
    (267, Export(crate::hooks::cuGraphUpload_ptsz as *const c_void)),
    (285, Export(crate::hooks::cuGreenCtxCreate as *const c_void)),
    (286, Export(crate::hooks::cuGreenCtxDestroy as *const c_void)),
    (292, Export(crate::hooks::cuImportExternalMemory as *const c_void)),
    (294, Export(crate::hooks::cuInit as *const c_void)),
    (295, Export(crate::hooks::cuIpcCloseMemHandle as *const c_void)),
    (297, Export(crate::hooks::cuIpcGetMemHandle as *const c_void)),
    (299, Export(crate::hooks::cuIpcOpenMemHandle as *const c_void)),
    (300, Export(crate::hooks::cuIpcOpenMemHandle_v2 as *const c_void)),
    (309, Export(crate::hooks::cuLaunch as *const c_void)),
    (310, Export(crate::hooks::cuLaunchCooperativeKernel as *const c_void)),
    (311, Export(crate::hooks::cuLaunchCooperativeKernelMultiDevice as *const c_void)),
    (312, Export(crate::hooks::cuLaunchCooperativeKernel_ptsz as *const c_void)),
    (313, Export(crate::hooks::cuLaunchGrid as *const c_void)),
    (314, Export(crate::hooks::cuLaunchGridAsync as *const c_void)),
    (318, Export(crate::hooks::cuLaunchKernel as *const c_void)),
    (319, Export(crate::hooks::cuLaunchKernelEx as *const c_void)),
    (320, Export(crate::hooks::cuLaunchKernelEx_ptsz as *const c_void)),
    (321, Export(crate::hooks::cuLaunchKernel_ptsz as *const c_void)),
    (323, Export(crate::hooks::cuLibraryGetGlobal as *const c_void)),
    (324, Export(crate::hooks::cuLibraryGetKernel as *const c_void)),
    (326, Export(crate::hooks::cuLibraryGetManaged as *const c_void)),
    (327, Export(crate::hooks::cuLibraryGetModule as *const c_void)),
    (329, Export(crate::hooks::cuLibraryLoadData as *const c_void)),
    (330, Export(crate::hooks::cuLibraryLoadFromFile as *const c_void)),
    (331, Export(crate::hooks::cuLibraryUnload as *const c_void)),
    (361, Export(crate::hooks::cuMemAlloc as *const c_void)),
    (362, Export(crate::hooks::cuMemAllocAsync as *const c_void)),
    (363, Export(crate::hooks::cuMemAllocAsync_ptsz as *const c_void)),
    (364, Export(crate::hooks::cuMemAllocFromPoolAsync as *const c_void)),
    (365, Export(crate::hooks::cuMemAllocFromPoolAsync_ptsz as *const c_void)),
    (366, Export(crate::hooks::cuMemAllocHost as *const c_void)),
    (367, Export(crate::hooks::cuMemAllocHost_v2 as *const c_void)),
    (368, Export(crate::hooks::cuMemAllocManaged as *const c_void)),
    (369, Export(crate::hooks::cuMemAllocPitch as *const c_void)),
    (370, Export(crate::hooks::cuMemAllocPitch_v2 as *const c_void)),
    (371, Export(crate::hooks::cuMemAlloc_v2 as *const c_void)),
    (372, Export(crate::hooks::cuMemBatchDecompressAsync as *const c_void)),
    (373, Export(crate::hooks::cuMemBatchDecompressAsync_ptsz as *const c_void)),
    (374, Export(crate::hooks::cuMemCreate as *const c_void)),
    (375, Export(crate::hooks::cuMemDiscardAndPrefetchBatchAsync as *const c_void)),
    (376, Export(crate::hooks::cuMemDiscardAndPrefetchBatchAsync_ptsz as *const c_void)),
    (379, Export(crate::hooks::cuMemExportToShareableHandle as *const c_void)),
    (380, Export(crate::hooks::cuMemFree as *const c_void)),
    (381, Export(crate::hooks::cuMemFreeAsync as *const c_void)),
    (382, Export(crate::hooks::cuMemFreeAsync_ptsz as *const c_void)),
    (383, Export(crate::hooks::cuMemFreeHost as *const c_void)),
    (384, Export(crate::hooks::cuMemFree_v2 as *const c_void)),
    (394, Export(crate::hooks::cuMemGetInfo as *const c_void)),
    (395, Export(crate::hooks::cuMemGetInfo_v2 as *const c_void)),
    (398, Export(crate::hooks::cuMemHostAlloc as *const c_void)),
    (402, Export(crate::hooks::cuMemHostRegister as *const c_void)),
    (403, Export(crate::hooks::cuMemHostRegister_v2 as *const c_void)),
    (404, Export(crate::hooks::cuMemHostUnregister as *const c_void)),
    (405, Export(crate::hooks::cuMemImportFromShareableHandle as *const c_void)),
    (406, Export(crate::hooks::cuMemMap as *const c_void)),
    (409, Export(crate::hooks::cuMemPoolCreate as *const c_void)),
    (410, Export(crate::hooks::cuMemPoolDestroy as *const c_void)),
    (419, Export(crate::hooks::cuMemPoolTrimTo as *const c_void)),
    (420, Export(crate::hooks::cuMemPrefetchAsync as *const c_void)),
    (421, Export(crate::hooks::cuMemPrefetchAsync_ptsz as *const c_void)),
    (422, Export(crate::hooks::cuMemPrefetchAsync_v2 as *const c_void)),
    (423, Export(crate::hooks::cuMemPrefetchAsync_v2_ptsz as *const c_void)),
    (424, Export(crate::hooks::cuMemPrefetchBatchAsync as *const c_void)),
    (425, Export(crate::hooks::cuMemPrefetchBatchAsync_ptsz as *const c_void)),
    (428, Export(crate::hooks::cuMemRelease as *const c_void)),
    (429, Export(crate::hooks::cuMemRetainAllocationHandle as *const c_void)),
    (431, Export(crate::hooks::cuMemSetMemPool as *const c_void)),
    (432, Export(crate::hooks::cuMemUnmap as *const c_void)),
    (433, Export(crate::hooks::cuMemcpy as *const c_void)),
    (434, Export(crate::hooks::cuMemcpy2D as *const c_void)),
    (435, Export(crate::hooks::cuMemcpy2DAsync as *const c_void)),
    (436, Export(crate::hooks::cuMemcpy2DAsync_v2 as *const c_void)),
    (437, Export(crate::hooks::cuMemcpy2DAsync_v2_ptsz as *const c_void)),
    (438, Export(crate::hooks::cuMemcpy2DUnaligned as *const c_void)),
    (439, Export(crate::hooks::cuMemcpy2DUnaligned_v2 as *const c_void)),
    (440, Export(crate::hooks::cuMemcpy2DUnaligned_v2_ptds as *const c_void)),
    (441, Export(crate::hooks::cuMemcpy2D_v2 as *const c_void)),
    (442, Export(crate::hooks::cuMemcpy2D_v2_ptds as *const c_void)),
    (443, Export(crate::hooks::cuMemcpy3D as *const c_void)),
    (444, Export(crate::hooks::cuMemcpy3DAsync as *const c_void)),
    (445, Export(crate::hooks::cuMemcpy3DAsync_v2 as *const c_void)),
    (446, Export(crate::hooks::cuMemcpy3DAsync_v2_ptsz as *const c_void)),
    (447, Export(crate::hooks::cuMemcpy3DBatchAsync as *const c_void)),
    (448, Export(crate::hooks::cuMemcpy3DBatchAsync_ptsz as *const c_void)),
    (449, Export(crate::hooks::cuMemcpy3DBatchAsync_v2 as *const c_void)),
    (450, Export(crate::hooks::cuMemcpy3DBatchAsync_v2_ptsz as *const c_void)),
    (451, Export(crate::hooks::cuMemcpy3DPeer as *const c_void)),
    (452, Export(crate::hooks::cuMemcpy3DPeerAsync as *const c_void)),
    (453, Export(crate::hooks::cuMemcpy3DPeerAsync_ptsz as *const c_void)),
    (454, Export(crate::hooks::cuMemcpy3DPeer_ptds as *const c_void)),
    (455, Export(crate::hooks::cuMemcpy3DWithAttributesAsync as *const c_void)),
    (456, Export(crate::hooks::cuMemcpy3D_v2 as *const c_void)),
    (457, Export(crate::hooks::cuMemcpy3D_v2_ptds as *const c_void)),
    (458, Export(crate::hooks::cuMemcpyAsync as *const c_void)),
    (459, Export(crate::hooks::cuMemcpyAsync_ptsz as *const c_void)),
    (460, Export(crate::hooks::cuMemcpyAtoA as *const c_void)),
    (461, Export(crate::hooks::cuMemcpyAtoA_v2 as *const c_void)),
    (462, Export(crate::hooks::cuMemcpyAtoA_v2_ptds as *const c_void)),
    (463, Export(crate::hooks::cuMemcpyAtoD as *const c_void)),
    (464, Export(crate::hooks::cuMemcpyAtoD_v2 as *const c_void)),
    (465, Export(crate::hooks::cuMemcpyAtoD_v2_ptds as *const c_void)),
    (466, Export(crate::hooks::cuMemcpyAtoH as *const c_void)),
    (467, Export(crate::hooks::cuMemcpyAtoHAsync as *const c_void)),
    (468, Export(crate::hooks::cuMemcpyAtoHAsync_v2 as *const c_void)),
    (469, Export(crate::hooks::cuMemcpyAtoHAsync_v2_ptsz as *const c_void)),
    (470, Export(crate::hooks::cuMemcpyAtoH_v2 as *const c_void)),
    (471, Export(crate::hooks::cuMemcpyAtoH_v2_ptds as *const c_void)),
    (472, Export(crate::hooks::cuMemcpyBatchAsync as *const c_void)),
    (473, Export(crate::hooks::cuMemcpyBatchAsync_ptsz as *const c_void)),
    (474, Export(crate::hooks::cuMemcpyBatchAsync_v2 as *const c_void)),
    (475, Export(crate::hooks::cuMemcpyBatchAsync_v2_ptsz as *const c_void)),
    (476, Export(crate::hooks::cuMemcpyDtoA as *const c_void)),
    (477, Export(crate::hooks::cuMemcpyDtoA_v2 as *const c_void)),
    (478, Export(crate::hooks::cuMemcpyDtoA_v2_ptds as *const c_void)),
    (479, Export(crate::hooks::cuMemcpyDtoD as *const c_void)),
    (480, Export(crate::hooks::cuMemcpyDtoDAsync as *const c_void)),
    (481, Export(crate::hooks::cuMemcpyDtoDAsync_v2 as *const c_void)),
    (482, Export(crate::hooks::cuMemcpyDtoDAsync_v2_ptsz as *const c_void)),
    (483, Export(crate::hooks::cuMemcpyDtoD_v2 as *const c_void)),
    (484, Export(crate::hooks::cuMemcpyDtoD_v2_ptds as *const c_void)),
    (485, Export(crate::hooks::cuMemcpyDtoH as *const c_void)),
    (486, Export(crate::hooks::cuMemcpyDtoHAsync as *const c_void)),
    (487, Export(crate::hooks::cuMemcpyDtoHAsync_v2 as *const c_void)),
    (488, Export(crate::hooks::cuMemcpyDtoHAsync_v2_ptsz as *const c_void)),
    (489, Export(crate::hooks::cuMemcpyDtoH_v2 as *const c_void)),
    (490, Export(crate::hooks::cuMemcpyDtoH_v2_ptds as *const c_void)),
    (491, Export(crate::hooks::cuMemcpyHtoA as *const c_void)),
    (492, Export(crate::hooks::cuMemcpyHtoAAsync as *const c_void)),
    (493, Export(crate::hooks::cuMemcpyHtoAAsync_v2 as *const c_void)),
    (494, Export(crate::hooks::cuMemcpyHtoAAsync_v2_ptsz as *const c_void)),
    (495, Export(crate::hooks::cuMemcpyHtoA_v2 as *const c_void)),
    (496, Export(crate::hooks::cuMemcpyHtoA_v2_ptds as *const c_void)),
    (497, Export(crate::hooks::cuMemcpyHtoD as *const c_void)),
    (498, Export(crate::hooks::cuMemcpyHtoDAsync as *const c_void)),
    (499, Export(crate::hooks::cuMemcpyHtoDAsync_v2 as *const c_void)),
    (500, Export(crate::hooks::cuMemcpyHtoDAsync_v2_ptsz as *const c_void)),
    (501, Export(crate::hooks::cuMemcpyHtoD_v2 as *const c_void)),
    (502, Export(crate::hooks::cuMemcpyHtoD_v2_ptds as *const c_void)),
    (503, Export(crate::hooks::cuMemcpyPeer as *const c_void)),
    (504, Export(crate::hooks::cuMemcpyPeerAsync as *const c_void)),
    (505, Export(crate::hooks::cuMemcpyPeerAsync_ptsz as *const c_void)),
    (506, Export(crate::hooks::cuMemcpyPeer_ptds as *const c_void)),
    (507, Export(crate::hooks::cuMemcpyWithAttributesAsync as *const c_void)),
    (508, Export(crate::hooks::cuMemcpy_ptds as *const c_void)),
    (509, Export(crate::hooks::cuMemsetD16 as *const c_void)),
    (510, Export(crate::hooks::cuMemsetD16Async as *const c_void)),
    (511, Export(crate::hooks::cuMemsetD16Async_ptsz as *const c_void)),
    (512, Export(crate::hooks::cuMemsetD16_v2 as *const c_void)),
    (513, Export(crate::hooks::cuMemsetD16_v2_ptds as *const c_void)),
    (514, Export(crate::hooks::cuMemsetD2D16 as *const c_void)),
    (515, Export(crate::hooks::cuMemsetD2D16Async as *const c_void)),
    (516, Export(crate::hooks::cuMemsetD2D16Async_ptsz as *const c_void)),
    (517, Export(crate::hooks::cuMemsetD2D16_v2 as *const c_void)),
    (518, Export(crate::hooks::cuMemsetD2D16_v2_ptds as *const c_void)),
    (519, Export(crate::hooks::cuMemsetD2D32 as *const c_void)),
    (520, Export(crate::hooks::cuMemsetD2D32Async as *const c_void)),
    (521, Export(crate::hooks::cuMemsetD2D32Async_ptsz as *const c_void)),
    (522, Export(crate::hooks::cuMemsetD2D32_v2 as *const c_void)),
    (523, Export(crate::hooks::cuMemsetD2D32_v2_ptds as *const c_void)),
    (524, Export(crate::hooks::cuMemsetD2D8 as *const c_void)),
    (525, Export(crate::hooks::cuMemsetD2D8Async as *const c_void)),
    (526, Export(crate::hooks::cuMemsetD2D8Async_ptsz as *const c_void)),
    (527, Export(crate::hooks::cuMemsetD2D8_v2 as *const c_void)),
    (528, Export(crate::hooks::cuMemsetD2D8_v2_ptds as *const c_void)),
    (529, Export(crate::hooks::cuMemsetD32 as *const c_void)),
    (530, Export(crate::hooks::cuMemsetD32Async as *const c_void)),
    (531, Export(crate::hooks::cuMemsetD32Async_ptsz as *const c_void)),
    (532, Export(crate::hooks::cuMemsetD32_v2 as *const c_void)),
    (533, Export(crate::hooks::cuMemsetD32_v2_ptds as *const c_void)),
    (534, Export(crate::hooks::cuMemsetD8 as *const c_void)),
    (535, Export(crate::hooks::cuMemsetD8Async as *const c_void)),
    (536, Export(crate::hooks::cuMemsetD8Async_ptsz as *const c_void)),
    (537, Export(crate::hooks::cuMemsetD8_v2 as *const c_void)),
    (538, Export(crate::hooks::cuMemsetD8_v2_ptds as *const c_void)),
    (539, Export(crate::hooks::cuMipmappedArrayCreate as *const c_void)),
    (540, Export(crate::hooks::cuMipmappedArrayDestroy as *const c_void)),
    (552, Export(crate::hooks::cuModuleLoad as *const c_void)),
    (553, Export(crate::hooks::cuModuleLoadData as *const c_void)),
    (554, Export(crate::hooks::cuModuleLoadDataEx as *const c_void)),
    (555, Export(crate::hooks::cuModuleLoadFatBinary as *const c_void)),
    (556, Export(crate::hooks::cuModuleUnload as *const c_void)),
    (593, Export(crate::hooks::cuStreamBeginCapture as *const c_void)),
    (594, Export(crate::hooks::cuStreamBeginCaptureToCig as *const c_void)),
    (595, Export(crate::hooks::cuStreamBeginCaptureToGraph as *const c_void)),
    (596, Export(crate::hooks::cuStreamBeginCaptureToGraph_ptsz as *const c_void)),
    (597, Export(crate::hooks::cuStreamBeginCapture_ptsz as *const c_void)),
    (598, Export(crate::hooks::cuStreamBeginCapture_v2 as *const c_void)),
    (599, Export(crate::hooks::cuStreamBeginCapture_v2_ptsz as *const c_void)),
    (600, Export(crate::hooks::cuStreamBeginRecaptureToGraph as *const c_void)),
    (605, Export(crate::hooks::cuStreamDestroy as *const c_void)),
    (606, Export(crate::hooks::cuStreamDestroy_v2 as *const c_void)),
    (607, Export(crate::hooks::cuStreamEndCapture as *const c_void)),
    (608, Export(crate::hooks::cuStreamEndCaptureToCig as *const c_void)),
    (609, Export(crate::hooks::cuStreamEndCapture_ptsz as *const c_void)),
    (618, Export(crate::hooks::cuStreamGetCtx as *const c_void)),
    (619, Export(crate::hooks::cuStreamGetCtx_ptsz as *const c_void)),
    (620, Export(crate::hooks::cuStreamGetCtx_v2 as *const c_void)),
    (621, Export(crate::hooks::cuStreamGetCtx_v2_ptsz as *const c_void)),
    (627, Export(crate::hooks::cuStreamGetGreenCtx as *const c_void)),
    (638, Export(crate::hooks::cuStreamSynchronize as *const c_void)),
    (639, Export(crate::hooks::cuStreamSynchronize_ptsz as *const c_void)),
];

/// The CUDA names that must not be handed out to who has multiprocessors of its own as they are: number and export.
pub static ENTERED: [(u16, Export); 95] = [
    (39, Export(cuCtxGetCacheConfig as *const c_void)),
    (45, Export(cuCtxGetFlags as *const c_void)),
    (47, Export(cuCtxGetLimit as *const c_void)),
    (55, Export(cuCtxResetPersistingL2Cache as *const c_void)),
    (56, Export(cuCtxSetCacheConfig as *const c_void)),
    (58, Export(cuCtxSetFlags as *const c_void)),
    (60, Export(cuCtxSetSharedMemConfig as *const c_void)),
    (111, Export(cuEGLStreamConsumerAcquireFrame as *const c_void)),
    (115, Export(cuEGLStreamConsumerReleaseFrame as *const c_void)),
    (118, Export(cuEGLStreamProducerPresentFrame as *const c_void)),
    (119, Export(cuEGLStreamProducerReturnFrame as *const c_void)),
    (126, Export(cuEventRecord as *const c_void)),
    (127, Export(cuEventRecordWithFlags as *const c_void)),
    (128, Export(cuEventRecordWithFlags_ptsz as *const c_void)),
    (129, Export(cuEventRecord_ptsz as *const c_void)),
    (133, Export(cuFabricCpyBatchAsync as *const c_void)),
    (153, Export(cuGLMapBufferObjectAsync as *const c_void)),
    (154, Export(cuGLMapBufferObjectAsync_v2 as *const c_void)),
    (155, Export(cuGLMapBufferObjectAsync_v2_ptsz as *const c_void)),
    (161, Export(cuGLUnmapBufferObjectAsync as *const c_void)),
    (168, Export(cuGraphAddBatchMemOpNode as *const c_void)),
    (271, Export(cuGraphicsMapResources as *const c_void)),
    (272, Export(cuGraphicsMapResources_ptsz as *const c_void)),
    (280, Export(cuGraphicsUnmapResources as *const c_void)),
    (281, Export(cuGraphicsUnmapResources_ptsz as *const c_void)),
    (315, Export(cuLaunchHostFunc as *const c_void)),
    (316, Export(cuLaunchHostFunc_ptsz as *const c_void)),
    (317, Export(cuLaunchHostFunc_v2 as *const c_void)),
    (377, Export(cuMemDiscardBatchAsync as *const c_void)),
    (378, Export(cuMemDiscardBatchAsync_ptsz as *const c_void)),
    (407, Export(cuMemMapArrayAsync as *const c_void)),
    (408, Export(cuMemMapArrayAsync_ptsz as *const c_void)),
    (568, Export(cuOccupancyMaxActiveClusters as *const c_void)),
    (571, Export(cuOccupancyMaxPotentialClusterSize as *const c_void)),
    (583, Export(cuSignalExternalSemaphoresAsync as *const c_void)),
    (584, Export(cuSignalExternalSemaphoresAsync_ptsz as *const c_void)),
    (585, Export(cuStreamAddCallback as *const c_void)),
    (586, Export(cuStreamAddCallback_ptsz as *const c_void)),
    (587, Export(cuStreamAttachMemAsync as *const c_void)),
    (588, Export(cuStreamAttachMemAsync_ptsz as *const c_void)),
    (589, Export(cuStreamBatchMemOp as *const c_void)),
    (590, Export(cuStreamBatchMemOp_ptsz as *const c_void)),
    (591, Export(cuStreamBatchMemOp_v2 as *const c_void)),
    (592, Export(cuStreamBatchMemOp_v2_ptsz as *const c_void)),
    (601, Export(cuStreamCopyAttributes as *const c_void)),
    (602, Export(cuStreamCopyAttributes_ptsz as *const c_void)),
    (603, Export(cuStreamCreate as *const c_void)),
    (604, Export(cuStreamCreateWithPriority as *const c_void)),
    (610, Export(cuStreamGetAttribute as *const c_void)),
    (611, Export(cuStreamGetAttribute_ptsz as *const c_void)),
    (612, Export(cuStreamGetCaptureInfo as *const c_void)),
    (613, Export(cuStreamGetCaptureInfo_ptsz as *const c_void)),
    (614, Export(cuStreamGetCaptureInfo_v2 as *const c_void)),
    (615, Export(cuStreamGetCaptureInfo_v2_ptsz as *const c_void)),
    (616, Export(cuStreamGetCaptureInfo_v3 as *const c_void)),
    (617, Export(cuStreamGetCaptureInfo_v3_ptsz as *const c_void)),
    (622, Export(cuStreamGetDevResource as *const c_void)),
    (623, Export(cuStreamGetDevice as *const c_void)),
    (624, Export(cuStreamGetDevice_ptsz as *const c_void)),
    (625, Export(cuStreamGetFlags as *const c_void)),
    (626, Export(cuStreamGetFlags_ptsz as *const c_void)),
    (628, Export(cuStreamGetId as *const c_void)),
    (629, Export(cuStreamGetId_ptsz as *const c_void)),
    (630, Export(cuStreamGetPriority as *const c_void)),
    (631, Export(cuStreamGetPriority_ptsz as *const c_void)),
    (632, Export(cuStreamIsCapturing as *const c_void)),
    (633, Export(cuStreamIsCapturing_ptsz as *const c_void)),
    (634, Export(cuStreamQuery as *const c_void)),
    (635, Export(cuStreamQuery_ptsz as *const c_void)),
    (636, Export(cuStreamSetAttribute as *const c_void)),
    (637, Export(cuStreamSetAttribute_ptsz as *const c_void)),
    (640, Export(cuStreamUpdateCaptureDependencies as *const c_void)),
    (641, Export(cuStreamUpdateCaptureDependencies_ptsz as *const c_void)),
    (642, Export(cuStreamUpdateCaptureDependencies_v2 as *const c_void)),
    (643, Export(cuStreamUpdateCaptureDependencies_v2_ptsz as *const c_void)),
    (644, Export(cuStreamWaitEvent as *const c_void)),
    (645, Export(cuStreamWaitEvent_ptsz as *const c_void)),
    (646, Export(cuStreamWaitValue32 as *const c_void)),
    (647, Export(cuStreamWaitValue32_ptsz as *const c_void)),
    (648, Export(cuStreamWaitValue32_v2 as *const c_void)),
    (649, Export(cuStreamWaitValue32_v2_ptsz as *const c_void)),
    (650, Export(cuStreamWaitValue64 as *const c_void)),
    (651, Export(cuStreamWaitValue64_ptsz as *const c_void)),
    (652, Export(cuStreamWaitValue64_v2 as *const c_void)),
    (653, Export(cuStreamWaitValue64_v2_ptsz as *const c_void)),
    (654, Export(cuStreamWriteValue32 as *const c_void)),
    (655, Export(cuStreamWriteValue32_ptsz as *const c_void)),
    (656, Export(cuStreamWriteValue32_v2 as *const c_void)),
    (657, Export(cuStreamWriteValue32_v2_ptsz as *const c_void)),
    (658, Export(cuStreamWriteValue64 as *const c_void)),
    (659, Export(cuStreamWriteValue64_ptsz as *const c_void)),
    (660, Export(cuStreamWriteValue64_v2 as *const c_void)),
    (661, Export(cuStreamWriteValue64_v2_ptsz as *const c_void)),
    (715, Export(cuWaitExternalSemaphoresAsync as *const c_void)),
    (716, Export(cuWaitExternalSemaphoresAsync_ptsz as *const c_void)),
];

/// Base names of the calls that take memory: a variant of one of these that is not in the table is refused.
#[rustfmt::skip]
pub static GUARDED: &[&[u8]] = &[b"cuArray3DCreate", b"cuArrayCreate", b"cuMemAlloc", b"cuMemAllocAsync", b"cuMemAllocFromPoolAsync", b"cuMemAllocManaged", b"cuMemAllocPitch", b"cuMemAlloc", b"cuMemCreate", b"cuMipmappedArrayCreate"];

/// Parts of kernels' names, and their classes: the first that fits counts.
#[rustfmt::skip]
pub static KERNELS: &[(&[u8], KernelClass)] = &[
    (b"ncclDevKernel", KernelClass::Collective),
    (b"ncclKernel", KernelClass::Collective),
    (b"ncclSym", KernelClass::Collective),
    (b"nvshmem", KernelClass::Collective),
    (b"mscclKernel", KernelClass::Collective),
    (b"mscclpp", KernelClass::Collective),
    (b"deep_ep", KernelClass::Collective),
    (b"cross_device_reduce", KernelClass::Collective),
    (b"all_reduce_kernel", KernelClass::Collective),
    (b"all_gather_kernel", KernelClass::Collective),
    (b"ggml_cuda_ar", KernelClass::Collective),
    (b"symmetric_memory", KernelClass::Collective),
    (b"all_reduce_norm_kernel", KernelClass::Collective),
    (b"allreduce_fusion_kernel", KernelClass::Collective),
    (b"ShotAllReduceKernel", KernelClass::Collective),
    (b"shotAllreduce", KernelClass::Collective),
    (b"rmsNormLamport", KernelClass::Collective),
    (b"allreduce_kernel", KernelClass::Collective),
    (b"allgather_kernel", KernelClass::Collective),
    (b"AllToAllKernel", KernelClass::Collective),
    (b"moeA2A", KernelClass::Collective),
    (b"attention_backward", KernelClass::Throughput),
    (b"flash_fwd", KernelClass::Latency),
    (b"FlashAttnFwd", KernelClass::Latency),
    (b"FlashAttentionForward", KernelClass::Latency),
    (b"paged_attention", KernelClass::Latency),
    (b"unified_attention", KernelClass::Latency),
    (b"_kernel_stage", KernelClass::Latency),
    (b"DecodeWith", KernelClass::Latency),
    (b"PrefillWith", KernelClass::Latency),
    (b"BatchMLAPage", KernelClass::Latency),
    (b"fmha_cutlassF", KernelClass::Latency),
    (b"fmha_v2_flash", KernelClass::Latency),
    (b"fmhaSm", KernelClass::Latency),
    (b"kernel_mha", KernelClass::Latency),
    (b"masked_multihead_attention", KernelClass::Latency),
    (b"flash_fprop", KernelClass::Latency),
    (b"flex_attention", KernelClass::Latency),
    (b"flash_attn", KernelClass::Latency),
    (b"mul_mat_vec", KernelClass::Latency),
    (b"gemv", KernelClass::Latency),
    (b"gemm", KernelClass::Throughput),
    (b"nvjet_", KernelClass::Throughput),
    (b"splitKreduce", KernelClass::Throughput),
    (b"matmul", KernelClass::Throughput),
    (b"triton_tem_fused", KernelClass::Throughput),
    (b"mul_mat", KernelClass::Throughput),
    (b"Marlin", KernelClass::Throughput),
    (b"fused_moe_kernel", KernelClass::Throughput),
    (b"bmm_", KernelClass::Throughput),
    (b"convolve", KernelClass::Throughput),
    (b"scudnn", KernelClass::Throughput),
    (b"dgrad", KernelClass::Throughput),
    (b"wgrad", KernelClass::Throughput),
    (b"fprop", KernelClass::Throughput),
    (b"flash_bwd", KernelClass::Throughput),
    (b"FlashAttnBwd", KernelClass::Throughput),
    (b"fmha_cutlassB", KernelClass::Throughput),
    (b"flash_bprop", KernelClass::Throughput),
    (b"CatArrayBatchedCopy", KernelClass::Copy),
    (b"copy_kernel", KernelClass::Copy),
    (b"FillFunctor", KernelClass::Copy),
    (b"reshape_and_cache", KernelClass::Copy),
    (b"concat_and_cache", KernelClass::Copy),
    (b"AppendPagedKV", KernelClass::Copy),
    (b"nchwToNhwc", KernelClass::Copy),
    (b"nhwcToNchw", KernelClass::Copy),
    (b"triton_poi_fused_cat", KernelClass::Copy),
];

/// Address of an export.
#[repr(transparent)]
pub struct Export(pub *const c_void);

// SAFETY: an address of code, never written through.
unsafe impl Sync for Export {}

pass!(cuArray3DGetDescriptor, 2);
pass!(cuArray3DGetDescriptor_v2, 3);
pass!(cuArrayGetDescriptor, 7);
pass!(cuArrayGetDescriptor_v2, 8);
pass!(cuArrayGetMemoryRequirements, 9);
pass!(cuArrayGetPlane, 10);
pass!(cuArrayGetSparseProperties, 11);
refuse!(cuCheckpointOperationComplete, 800);
refuse!(cuCheckpointProcessCheckpoint, 800);
refuse!(cuCheckpointProcessGetRestoreThreadId, 800);
refuse!(cuCheckpointProcessGetState, 800);
refuse!(cuCheckpointProcessLock, 800);
refuse!(cuCheckpointProcessRestore, 800);
refuse!(cuCheckpointProcessUnlock, 800);
pass!(cuCoredumpDeregisterCompleteCallback, 19);
pass!(cuCoredumpDeregisterStartCallback, 20);
pass!(cuCoredumpGetAttribute, 21);
pass!(cuCoredumpGetAttributeGlobal, 22);
pass!(cuCoredumpRegisterCompleteCallback, 23);
pass!(cuCoredumpRegisterStartCallback, 24);
pass!(cuCoredumpSetAttribute, 25);
pass!(cuCoredumpSetAttributeGlobal, 26);
pass!(cuCtxAttach, 27);
pass!(cuCtxDisablePeerAccess, 35);
pass!(cuCtxEnablePeerAccess, 36);
pass!(cuCtxFromGreenCtx, 37);
pass!(cuCtxGetApiVersion, 38);
enter!(cuCtxGetCacheConfig, 39);
pass!(cuCtxGetDevice, 42);
pass!(cuCtxGetDevice_v2, 43);
pass!(cuCtxGetExecAffinity, 44);
enter!(cuCtxGetFlags, 45);
enter!(cuCtxGetLimit, 47);
pass!(cuCtxGetSharedMemConfig, 48);
pass!(cuCtxGetStreamPriorityRange, 49);
pass!(cuCtxRecordEvent, 54);
enter!(cuCtxResetPersistingL2Cache, 55);
enter!(cuCtxSetCacheConfig, 56);
enter!(cuCtxSetFlags, 58);
enter!(cuCtxSetSharedMemConfig, 60);
pass!(cuCtxWaitEvent, 63);
pass!(cuDestroyExternalSemaphore, 65);
pass!(cuDevResourceGenerateDesc, 66);
pass!(cuDevSmResourceSplit, 67);
pass!(cuDevSmResourceSplitByCount, 68);
pass!(cuDeviceCanAccessPeer, 69);
pass!(cuDeviceComputeCapability, 70);
pass!(cuDeviceGet, 71);
pass!(cuDeviceGetByPCIBusId, 73);
pass!(cuDeviceGetCliqueCount, 74);
pass!(cuDeviceGetCliqueInfo, 75);
pass!(cuDeviceGetCount, 76);
pass!(cuDeviceGetDefaultMemPool, 77);
pass!(cuDeviceGetExecAffinitySupport, 79);
pass!(cuDeviceGetFabricClusterUuid, 80);
pass!(cuDeviceGetGraphMemAttribute, 81);
pass!(cuDeviceGetHostAtomicCapabilities, 82);
pass!(cuDeviceGetLuid, 83);
pass!(cuDeviceGetMemPool, 84);
pass!(cuDeviceGetName, 85);
pass!(cuDeviceGetNvSciSyncAttributes, 86);
pass!(cuDeviceGetP2PAtomicCapabilities, 87);
pass!(cuDeviceGetP2PAttribute, 88);
pass!(cuDeviceGetPCIBusId, 89);
pass!(cuDeviceGetProperties, 90);
pass!(cuDeviceGetTexture1DLinearMaxWidth, 91);
pass!(cuDeviceGetUuid, 92);
pass!(cuDeviceGetUuid_v2, 93);
pass!(cuDevicePrimaryCtxGetState, 95);
pass!(cuDevicePrimaryCtxSetFlags, 101);
pass!(cuDevicePrimaryCtxSetFlags_v2, 102);
pass!(cuDeviceRegisterAsyncNotification, 103);
pass!(cuDeviceSetGraphMemAttribute, 104);
pass!(cuDeviceUnregisterAsyncNotification, 108);
pass!(cuDriverGetVersion, 109);
pass!(cuEGLApiInit, 110);
enter!(cuEGLStreamConsumerAcquireFrame, 111);
pass!(cuEGLStreamConsumerConnect, 112);
pass!(cuEGLStreamConsumerConnectWithFlags, 113);
pass!(cuEGLStreamConsumerDisconnect, 114);
enter!(cuEGLStreamConsumerReleaseFrame, 115);
pass!(cuEGLStreamProducerConnect, 116);
pass!(cuEGLStreamProducerDisconnect, 117);
enter!(cuEGLStreamProducerPresentFrame, 118);
enter!(cuEGLStreamProducerReturnFrame, 119);
pass!(cuEventCreate, 120);
pass!(cuEventDestroy, 121);
pass!(cuEventDestroy_v2, 122);
pass!(cuEventElapsedTime, 123);
pass!(cuEventElapsedTime_v2, 124);
pass!(cuEventQuery, 125);
enter!(cuEventRecord, 126);
enter!(cuEventRecordWithFlags, 127);
enter!(cuEventRecordWithFlags_ptsz, 128);
enter!(cuEventRecord_ptsz, 129);
pass!(cuExternalMemoryGetMappedBuffer, 131);
pass!(cuExternalMemoryGetMappedMipmappedArray, 132);
enter!(cuFabricCpyBatchAsync, 133);
pass!(cuFlushGPUDirectRDMAWrites, 134);
pass!(cuFuncGetAttribute, 135);
pass!(cuFuncGetModule, 136);
pass!(cuFuncGetName, 137);
pass!(cuFuncGetParamCount, 138);
pass!(cuFuncGetParamInfo, 139);
pass!(cuFuncIsLoaded, 140);
pass!(cuFuncLoad, 141);
pass!(cuFuncSetAttribute, 142);
pass!(cuFuncSetBlockShape, 143);
pass!(cuFuncSetCacheConfig, 144);
pass!(cuFuncSetSharedMemConfig, 145);
pass!(cuFuncSetSharedSize, 146);
pass!(cuGLCtxCreate, 147);
pass!(cuGLCtxCreate_v2, 148);
pass!(cuGLGetDevices, 149);
pass!(cuGLGetDevices_v2, 150);
pass!(cuGLInit, 151);
pass!(cuGLMapBufferObject, 152);
enter!(cuGLMapBufferObjectAsync, 153);
enter!(cuGLMapBufferObjectAsync_v2, 154);
enter!(cuGLMapBufferObjectAsync_v2_ptsz, 155);
pass!(cuGLMapBufferObject_v2, 156);
pass!(cuGLMapBufferObject_v2_ptds, 157);
pass!(cuGLRegisterBufferObject, 158);
pass!(cuGLSetBufferObjectMapFlags, 159);
pass!(cuGLUnmapBufferObject, 160);
enter!(cuGLUnmapBufferObjectAsync, 161);
pass!(cuGLUnregisterBufferObject, 162);
pass!(cuGetErrorName, 163);
pass!(cuGetErrorString, 164);
pass!(cuGetExportTable, 165);
enter!(cuGraphAddBatchMemOpNode, 168);
pass!(cuGraphAddChildGraphNode, 169);
pass!(cuGraphAddDependencies, 170);
pass!(cuGraphAddDependencies_v2, 171);
pass!(cuGraphAddEmptyNode, 172);
pass!(cuGraphAddEventRecordNode, 173);
pass!(cuGraphAddEventWaitNode, 174);
pass!(cuGraphAddExternalSemaphoresSignalNode, 175);
pass!(cuGraphAddExternalSemaphoresWaitNode, 176);
pass!(cuGraphAddHostNode, 177);
pass!(cuGraphAddMemFreeNode, 181);
pass!(cuGraphAddMemcpyNode, 182);
pass!(cuGraphAddMemsetNode, 183);
pass!(cuGraphBatchMemOpNodeGetParams, 187);
pass!(cuGraphBatchMemOpNodeSetParams, 188);
pass!(cuGraphChildGraphNodeGetGraph, 189);
pass!(cuGraphClone, 190);
pass!(cuGraphConditionalHandleCreate, 191);
pass!(cuGraphCreate, 192);
pass!(cuGraphDebugDotPrint, 193);
pass!(cuGraphDestroy, 194);
pass!(cuGraphDestroyNode, 195);
pass!(cuGraphEventRecordNodeGetEvent, 196);
pass!(cuGraphEventRecordNodeSetEvent, 197);
pass!(cuGraphEventWaitNodeGetEvent, 198);
pass!(cuGraphEventWaitNodeSetEvent, 199);
pass!(cuGraphExecBatchMemOpNodeSetParams, 200);
pass!(cuGraphExecChildGraphNodeSetParams, 201);
pass!(cuGraphExecEventRecordNodeSetEvent, 203);
pass!(cuGraphExecEventWaitNodeSetEvent, 204);
pass!(cuGraphExecExternalSemaphoresSignalNodeSetParams, 205);
pass!(cuGraphExecExternalSemaphoresWaitNodeSetParams, 206);
pass!(cuGraphExecGetFlags, 207);
pass!(cuGraphExecGetId, 208);
pass!(cuGraphExecHostNodeSetParams, 209);
pass!(cuGraphExecMemcpyNodeSetParams, 212);
pass!(cuGraphExecMemsetNodeSetParams, 213);
pass!(cuGraphExternalSemaphoresSignalNodeGetParams, 217);
pass!(cuGraphExternalSemaphoresSignalNodeSetParams, 218);
pass!(cuGraphExternalSemaphoresWaitNodeGetParams, 219);
pass!(cuGraphExternalSemaphoresWaitNodeSetParams, 220);
pass!(cuGraphGetEdges, 221);
pass!(cuGraphGetEdges_v2, 222);
pass!(cuGraphGetId, 223);
pass!(cuGraphGetNodes, 224);
pass!(cuGraphGetRootNodes, 225);
pass!(cuGraphHostNodeGetParams, 226);
pass!(cuGraphHostNodeSetParams, 227);
pass!(cuGraphKernelNodeCopyAttributes, 233);
pass!(cuGraphKernelNodeGetAttribute, 234);
pass!(cuGraphKernelNodeGetParams, 235);
pass!(cuGraphKernelNodeGetParams_v2, 236);
pass!(cuGraphKernelNodeSetAttribute, 237);
pass!(cuGraphMemAllocNodeGetParams, 242);
pass!(cuGraphMemFreeNodeGetParams, 243);
pass!(cuGraphMemcpyNodeGetParams, 244);
pass!(cuGraphMemcpyNodeSetParams, 245);
pass!(cuGraphMemsetNodeGetParams, 246);
pass!(cuGraphMemsetNodeSetParams, 247);
pass!(cuGraphNodeFindInClone, 248);
pass!(cuGraphNodeGetContainingGraph, 249);
pass!(cuGraphNodeGetDependencies, 250);
pass!(cuGraphNodeGetDependencies_v2, 251);
pass!(cuGraphNodeGetDependentNodes, 252);
pass!(cuGraphNodeGetDependentNodes_v2, 253);
pass!(cuGraphNodeGetEnabled, 254);
pass!(cuGraphNodeGetLocalId, 255);
pass!(cuGraphNodeGetParams, 256);
pass!(cuGraphNodeGetToolsId, 257);
pass!(cuGraphNodeGetType, 258);
pass!(cuGraphNodeSetEnabled, 259);
pass!(cuGraphReleaseUserObject, 262);
pass!(cuGraphRemoveDependencies, 263);
pass!(cuGraphRemoveDependencies_v2, 264);
pass!(cuGraphRetainUserObject, 265);
pass!(cuGraphicsEGLRegisterImage, 268);
pass!(cuGraphicsGLRegisterBuffer, 269);
pass!(cuGraphicsGLRegisterImage, 270);
enter!(cuGraphicsMapResources, 271);
enter!(cuGraphicsMapResources_ptsz, 272);
pass!(cuGraphicsResourceGetMappedEglFrame, 273);
pass!(cuGraphicsResourceGetMappedMipmappedArray, 274);
pass!(cuGraphicsResourceGetMappedPointer, 275);
pass!(cuGraphicsResourceGetMappedPointer_v2, 276);
pass!(cuGraphicsResourceSetMapFlags, 277);
pass!(cuGraphicsResourceSetMapFlags_v2, 278);
pass!(cuGraphicsSubResourceGetMappedArray, 279);
enter!(cuGraphicsUnmapResources, 280);
enter!(cuGraphicsUnmapResources_ptsz, 281);
pass!(cuGraphicsUnregisterResource, 282);
pass!(cuGraphicsVDPAURegisterOutputSurface, 283);
pass!(cuGraphicsVDPAURegisterVideoSurface, 284);
pass!(cuGreenCtxGetDevResource, 287);
pass!(cuGreenCtxGetId, 288);
pass!(cuGreenCtxRecordEvent, 289);
pass!(cuGreenCtxStreamCreate, 290);
pass!(cuGreenCtxWaitEvent, 291);
pass!(cuImportExternalSemaphore, 293);
pass!(cuIpcGetEventHandle, 296);
pass!(cuIpcOpenEventHandle, 298);
pass!(cuKernelGetAttribute, 301);
pass!(cuKernelGetFunction, 302);
pass!(cuKernelGetLibrary, 303);
pass!(cuKernelGetName, 304);
pass!(cuKernelGetParamCount, 305);
pass!(cuKernelGetParamInfo, 306);
pass!(cuKernelSetAttribute, 307);
pass!(cuKernelSetCacheConfig, 308);
enter!(cuLaunchHostFunc, 315);
enter!(cuLaunchHostFunc_ptsz, 316);
enter!(cuLaunchHostFunc_v2, 317);
pass!(cuLibraryEnumerateKernels, 322);
pass!(cuLibraryGetKernelCount, 325);
pass!(cuLibraryGetUnifiedFunction, 328);
pass!(cuLinkAddData, 332);
pass!(cuLinkAddData_v2, 333);
pass!(cuLinkAddFile, 334);
pass!(cuLinkAddFile_v2, 335);
pass!(cuLinkComplete, 336);
pass!(cuLinkCreate, 337);
pass!(cuLinkCreate_v2, 338);
pass!(cuLinkDestroy, 339);
pass!(cuLogicalEndpointAddDevice, 340);
pass!(cuLogicalEndpointBindAddr, 341);
pass!(cuLogicalEndpointBindMem, 342);
pass!(cuLogicalEndpointCreate, 343);
pass!(cuLogicalEndpointDestroy, 344);
pass!(cuLogicalEndpointExport, 345);
pass!(cuLogicalEndpointGetLimits, 346);
pass!(cuLogicalEndpointIdRelease, 347);
pass!(cuLogicalEndpointIdReserve, 348);
pass!(cuLogicalEndpointImport, 349);
pass!(cuLogicalEndpointQuery, 350);
pass!(cuLogicalEndpointUnbind, 351);
pass!(cuLogsCurrent, 352);
pass!(cuLogsDumpToFile, 353);
pass!(cuLogsDumpToMemory, 354);
pass!(cuLogsRegisterCallback, 355);
pass!(cuLogsUnregisterCallback, 356);
pass!(cuMemAddressFree, 357);
pass!(cuMemAddressReserve, 358);
pass!(cuMemAdvise, 359);
pass!(cuMemAdvise_v2, 360);
enter!(cuMemDiscardBatchAsync, 377);
enter!(cuMemDiscardBatchAsync_ptsz, 378);
pass!(cuMemGetAccess, 385);
pass!(cuMemGetAddressRange, 386);
pass!(cuMemGetAddressRange_v2, 387);
pass!(cuMemGetAllocationGranularity, 388);
pass!(cuMemGetAllocationPropertiesFromHandle, 389);
pass!(cuMemGetAttribute, 390);
pass!(cuMemGetAttribute_v2, 391);
pass!(cuMemGetDefaultMemPool, 392);
pass!(cuMemGetHandleForAddressRange, 393);
pass!(cuMemGetLocationInfo, 396);
pass!(cuMemGetMemPool, 397);
pass!(cuMemHostGetDevicePointer, 399);
pass!(cuMemHostGetDevicePointer_v2, 400);
pass!(cuMemHostGetFlags, 401);
enter!(cuMemMapArrayAsync, 407);
enter!(cuMemMapArrayAsync_ptsz, 408);
pass!(cuMemPoolExportPointer, 411);
pass!(cuMemPoolExportToShareableHandle, 412);
pass!(cuMemPoolGetAccess, 413);
pass!(cuMemPoolGetAttribute, 414);
pass!(cuMemPoolImportFromShareableHandle, 415);
pass!(cuMemPoolImportPointer, 416);
pass!(cuMemPoolSetAccess, 417);
pass!(cuMemPoolSetAttribute, 418);
pass!(cuMemRangeGetAttribute, 426);
pass!(cuMemRangeGetAttributes, 427);
pass!(cuMemSetAccess, 430);
pass!(cuMipmappedArrayGetLevel, 541);
pass!(cuMipmappedArrayGetMemoryRequirements, 542);
pass!(cuMipmappedArrayGetSparseProperties, 543);
pass!(cuModuleEnumerateFunctions, 544);
pass!(cuModuleGetFunction, 545);
pass!(cuModuleGetFunctionCount, 546);
pass!(cuModuleGetGlobal, 547);
pass!(cuModuleGetGlobal_v2, 548);
pass!(cuModuleGetLoadingMode, 549);
pass!(cuModuleGetSurfRef, 550);
pass!(cuModuleGetTexRef, 551);
pass!(cuMulticastAddDevice, 557);
pass!(cuMulticastBindAddr, 558);
pass!(cuMulticastBindAddr_v2, 559);
pass!(cuMulticastBindMem, 560);
pass!(cuMulticastBindMem_v2, 561);
pass!(cuMulticastCreate, 562);
pass!(cuMulticastGetGranularity, 563);
pass!(cuMulticastUnbind, 564);
pass!(cuOccupancyAvailableDynamicSMemPerBlock, 565);
pass!(cuOccupancyMaxActiveBlocksPerMultiprocessor, 566);
pass!(cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags, 567);
enter!(cuOccupancyMaxActiveClusters, 568);
pass!(cuOccupancyMaxPotentialBlockSize, 569);
pass!(cuOccupancyMaxPotentialBlockSizeWithFlags, 570);
enter!(cuOccupancyMaxPotentialClusterSize, 571);
pass!(cuParamSetSize, 572);
pass!(cuParamSetTexRef, 573);
pass!(cuParamSetf, 574);
pass!(cuParamSeti, 575);
pass!(cuParamSetv, 576);
pass!(cuPointerGetAttribute, 577);
pass!(cuPointerGetAttributes, 578);
pass!(cuPointerSetAttribute, 579);
pass!(cuProfilerInitialize, 580);
pass!(cuProfilerStart, 581);
pass!(cuProfilerStop, 582);
enter!(cuSignalExternalSemaphoresAsync, 583);
enter!(cuSignalExternalSemaphoresAsync_ptsz, 584);
enter!(cuStreamAddCallback, 585);
enter!(cuStreamAddCallback_ptsz, 586);
enter!(cuStreamAttachMemAsync, 587);
enter!(cuStreamAttachMemAsync_ptsz, 588);
enter!(cuStreamBatchMemOp, 589);
enter!(cuStreamBatchMemOp_ptsz, 590);
enter!(cuStreamBatchMemOp_v2, 591);
enter!(cuStreamBatchMemOp_v2_ptsz, 592);
enter!(cuStreamCopyAttributes, 601);
enter!(cuStreamCopyAttributes_ptsz, 602);
enter!(cuStreamCreate, 603);
enter!(cuStreamCreateWithPriority, 604);
enter!(cuStreamGetAttribute, 610);
enter!(cuStreamGetAttribute_ptsz, 611);
enter!(cuStreamGetCaptureInfo, 612);
enter!(cuStreamGetCaptureInfo_ptsz, 613);
enter!(cuStreamGetCaptureInfo_v2, 614);
enter!(cuStreamGetCaptureInfo_v2_ptsz, 615);
enter!(cuStreamGetCaptureInfo_v3, 616);
enter!(cuStreamGetCaptureInfo_v3_ptsz, 617);
enter!(cuStreamGetDevResource, 622);
enter!(cuStreamGetDevice, 623);
enter!(cuStreamGetDevice_ptsz, 624);
enter!(cuStreamGetFlags, 625);
enter!(cuStreamGetFlags_ptsz, 626);
enter!(cuStreamGetId, 628);
enter!(cuStreamGetId_ptsz, 629);
enter!(cuStreamGetPriority, 630);
enter!(cuStreamGetPriority_ptsz, 631);
enter!(cuStreamIsCapturing, 632);
enter!(cuStreamIsCapturing_ptsz, 633);
enter!(cuStreamQuery, 634);
enter!(cuStreamQuery_ptsz, 635);
enter!(cuStreamSetAttribute, 636);
enter!(cuStreamSetAttribute_ptsz, 637);
enter!(cuStreamUpdateCaptureDependencies, 640);
enter!(cuStreamUpdateCaptureDependencies_ptsz, 641);
enter!(cuStreamUpdateCaptureDependencies_v2, 642);
enter!(cuStreamUpdateCaptureDependencies_v2_ptsz, 643);
enter!(cuStreamWaitEvent, 644);
enter!(cuStreamWaitEvent_ptsz, 645);
enter!(cuStreamWaitValue32, 646);
enter!(cuStreamWaitValue32_ptsz, 647);
enter!(cuStreamWaitValue32_v2, 648);
enter!(cuStreamWaitValue32_v2_ptsz, 649);
enter!(cuStreamWaitValue64, 650);
enter!(cuStreamWaitValue64_ptsz, 651);
enter!(cuStreamWaitValue64_v2, 652);
enter!(cuStreamWaitValue64_v2_ptsz, 653);
enter!(cuStreamWriteValue32, 654);
enter!(cuStreamWriteValue32_ptsz, 655);
enter!(cuStreamWriteValue32_v2, 656);
enter!(cuStreamWriteValue32_v2_ptsz, 657);
enter!(cuStreamWriteValue64, 658);
enter!(cuStreamWriteValue64_ptsz, 659);
enter!(cuStreamWriteValue64_v2, 660);
enter!(cuStreamWriteValue64_v2_ptsz, 661);
pass!(cuSurfObjectCreate, 662);
pass!(cuSurfObjectDestroy, 663);
pass!(cuSurfObjectGetResourceDesc, 664);
pass!(cuSurfRefGetArray, 665);
pass!(cuSurfRefSetArray, 666);
pass!(cuTensorMapEncodeIm2col, 667);
pass!(cuTensorMapEncodeIm2colWide, 668);
pass!(cuTensorMapEncodeTiled, 669);
pass!(cuTensorMapReplaceAddress, 670);
pass!(cuTensorMapSetAllocationClass, 671);
pass!(cuTexObjectCreate, 672);
pass!(cuTexObjectDestroy, 673);
pass!(cuTexObjectGetResourceDesc, 674);
pass!(cuTexObjectGetResourceViewDesc, 675);
pass!(cuTexObjectGetTextureDesc, 676);
pass!(cuTexRefCreate, 677);
pass!(cuTexRefDestroy, 678);
pass!(cuTexRefGetAddress, 679);
pass!(cuTexRefGetAddressMode, 680);
pass!(cuTexRefGetAddress_v2, 681);
pass!(cuTexRefGetArray, 682);
pass!(cuTexRefGetBorderColor, 683);
pass!(cuTexRefGetFilterMode, 684);
pass!(cuTexRefGetFlags, 685);
pass!(cuTexRefGetFormat, 686);
pass!(cuTexRefGetMaxAnisotropy, 687);
pass!(cuTexRefGetMipmapFilterMode, 688);
pass!(cuTexRefGetMipmapLevelBias, 689);
pass!(cuTexRefGetMipmapLevelClamp, 690);
pass!(cuTexRefGetMipmappedArray, 691);
pass!(cuTexRefSetAddress, 692);
pass!(cuTexRefSetAddress2D, 693);
pass!(cuTexRefSetAddress2D_v2, 694);
pass!(cuTexRefSetAddress2D_v3, 695);
pass!(cuTexRefSetAddressMode, 696);
pass!(cuTexRefSetAddress_v2, 697);
pass!(cuTexRefSetArray, 698);
pass!(cuTexRefSetBorderColor, 699);
pass!(cuTexRefSetFilterMode, 700);
pass!(cuTexRefSetFlags, 701);
pass!(cuTexRefSetFormat, 702);
pass!(cuTexRefSetMaxAnisotropy, 703);
pass!(cuTexRefSetMipmapFilterMode, 704);
pass!(cuTexRefSetMipmapLevelBias, 705);
pass!(cuTexRefSetMipmapLevelClamp, 706);
pass!(cuTexRefSetMipmappedArray, 707);
pass!(cuThreadExchangeStreamCaptureMode, 708);
pass!(cuUserObjectCreate, 709);
pass!(cuUserObjectRelease, 710);
pass!(cuUserObjectRetain, 711);
pass!(cuVDPAUCtxCreate, 712);
pass!(cuVDPAUCtxCreate_v2, 713);
pass!(cuVDPAUGetDevice, 714);
enter!(cuWaitExternalSemaphoresAsync, 715);
enter!(cuWaitExternalSemaphoresAsync_ptsz, 716);
refuse!(nvmlComputeInstanceDestroy, 4);
pass!(nvmlComputeInstanceGetInfo, 718);
pass!(nvmlComputeInstanceGetInfo_v2, 719);
refuse!(nvmlDeviceClearAccountingPids, 4);
pass!(nvmlDeviceClearCpuAffinity, 721);
refuse!(nvmlDeviceClearEccErrorCounts, 4);
refuse!(nvmlDeviceClearFieldValues, 4);
refuse!(nvmlDeviceCreateGpuInstance, 4);
refuse!(nvmlDeviceCreateGpuInstanceWithPlacement, 4);
refuse!(nvmlDeviceDiscoverGpus, 4);
refuse!(nvmlDeviceFreezeNvLinkUtilizationCounter, 4);
pass!(nvmlDeviceGetAPIRestriction, 728);
pass!(nvmlDeviceGetAccountingBufferSize, 729);
pass!(nvmlDeviceGetAccountingMode, 730);
pass!(nvmlDeviceGetAccountingStats, 732);
pass!(nvmlDeviceGetAccountingStats_v2, 733);
pass!(nvmlDeviceGetActiveVgpus, 734);
pass!(nvmlDeviceGetAdaptiveClockInfoStatus, 735);
pass!(nvmlDeviceGetAdaptiveTgpModeInfo_v1, 736);
pass!(nvmlDeviceGetAddressingMode, 737);
pass!(nvmlDeviceGetApplicationsClock, 738);
pass!(nvmlDeviceGetArchitecture, 739);
pass!(nvmlDeviceGetAttributes, 740);
pass!(nvmlDeviceGetAttributes_v2, 741);
pass!(nvmlDeviceGetAutoBoostedClocksEnabled, 742);
pass!(nvmlDeviceGetBAR1MemoryInfo, 743);
pass!(nvmlDeviceGetBBXTimeData_v1, 744);
pass!(nvmlDeviceGetBankRemapperStatus_v1, 745);
pass!(nvmlDeviceGetBoardId, 746);
pass!(nvmlDeviceGetBoardPartNumber, 747);
pass!(nvmlDeviceGetBrand, 748);
pass!(nvmlDeviceGetBridgeChipInfo, 749);
pass!(nvmlDeviceGetBusType, 750);
pass!(nvmlDeviceGetC2cModeInfoV, 751);
pass!(nvmlDeviceGetCapabilities, 752);
pass!(nvmlDeviceGetClkMonStatus, 753);
pass!(nvmlDeviceGetClock, 754);
pass!(nvmlDeviceGetClockInfo, 755);
pass!(nvmlDeviceGetClockOffsets, 756);
pass!(nvmlDeviceGetComputeInstanceId, 757);
pass!(nvmlDeviceGetComputeMode, 758);
pass!(nvmlDeviceGetConfComputeGpuAttestationReport, 762);
pass!(nvmlDeviceGetConfComputeGpuCertificate, 763);
pass!(nvmlDeviceGetConfComputeMemSizeInfo, 764);
pass!(nvmlDeviceGetConfComputeProtectedMemoryUsage, 765);
pass!(nvmlDeviceGetCoolerInfo, 766);
pass!(nvmlDeviceGetCpuAffinity, 769);
pass!(nvmlDeviceGetCpuAffinityWithinScope, 770);
pass!(nvmlDeviceGetCreatableVgpus, 771);
pass!(nvmlDeviceGetCudaComputeCapability, 772);
pass!(nvmlDeviceGetCurrPcieLinkGeneration, 773);
pass!(nvmlDeviceGetCurrPcieLinkWidth, 774);
pass!(nvmlDeviceGetCurrentClockFreqs, 775);
pass!(nvmlDeviceGetCurrentClocksEventReasons, 776);
pass!(nvmlDeviceGetCurrentClocksThrottleReasons, 777);
pass!(nvmlDeviceGetDecoderUtilization, 778);
pass!(nvmlDeviceGetDefaultApplicationsClock, 779);
pass!(nvmlDeviceGetDefaultEccMode, 780);
pass!(nvmlDeviceGetDetailedEccErrors, 781);
pass!(nvmlDeviceGetDeviceHandleFromMigDeviceHandle, 782);
pass!(nvmlDeviceGetDisplayActive, 783);
pass!(nvmlDeviceGetDisplayMode, 784);
pass!(nvmlDeviceGetDramEncryptionMode, 785);
pass!(nvmlDeviceGetDriverModel, 786);
pass!(nvmlDeviceGetDriverModel_v2, 787);
pass!(nvmlDeviceGetDynamicPstatesInfo, 788);
pass!(nvmlDeviceGetEccMode, 789);
pass!(nvmlDeviceGetEncoderCapacity, 790);
pass!(nvmlDeviceGetEncoderSessions, 791);
pass!(nvmlDeviceGetEncoderStats, 792);
pass!(nvmlDeviceGetEncoderUtilization, 793);
pass!(nvmlDeviceGetEnforcedPowerLimit, 794);
pass!(nvmlDeviceGetFBCSessions, 795);
pass!(nvmlDeviceGetFBCStats, 796);
pass!(nvmlDeviceGetFanControlPolicy_v2, 797);
pass!(nvmlDeviceGetFanSpeed, 798);
pass!(nvmlDeviceGetFanSpeedRPM, 799);
pass!(nvmlDeviceGetFanSpeed_v2, 800);
pass!(nvmlDeviceGetFieldValues, 801);
pass!(nvmlDeviceGetGpcClkMinMaxVfOffset, 802);
pass!(nvmlDeviceGetGpcClkVfOffset, 803);
pass!(nvmlDeviceGetGpuFabricInfo, 804);
pass!(nvmlDeviceGetGpuFabricInfoV, 805);
pass!(nvmlDeviceGetGpuFabricInfo_v4, 806);
pass!(nvmlDeviceGetGpuInstanceById, 807);
pass!(nvmlDeviceGetGpuInstanceId, 808);
pass!(nvmlDeviceGetGpuInstancePossiblePlacements, 809);
pass!(nvmlDeviceGetGpuInstancePossiblePlacements_v2, 810);
pass!(nvmlDeviceGetGpuInstanceProfileInfo, 811);
pass!(nvmlDeviceGetGpuInstanceProfileInfoByIdV, 812);
pass!(nvmlDeviceGetGpuInstanceProfileInfoV, 813);
pass!(nvmlDeviceGetGpuInstanceRemainingCapacity, 814);
pass!(nvmlDeviceGetGpuInstances, 815);
pass!(nvmlDeviceGetGpuMaxPcieLinkGeneration, 816);
pass!(nvmlDeviceGetGpuOperationMode, 817);
pass!(nvmlDeviceGetGridLicensableFeatures, 821);
pass!(nvmlDeviceGetGridLicensableFeatures_v2, 822);
pass!(nvmlDeviceGetGridLicensableFeatures_v3, 823);
pass!(nvmlDeviceGetGridLicensableFeatures_v4, 824);
pass!(nvmlDeviceGetGspFirmwareMode, 825);
pass!(nvmlDeviceGetGspFirmwareVersion, 826);
pass!(nvmlDeviceGetHostVgpuMode, 834);
pass!(nvmlDeviceGetHostname_v1, 835);
pass!(nvmlDeviceGetInforomConfigurationChecksum, 837);
pass!(nvmlDeviceGetInforomImageVersion, 838);
pass!(nvmlDeviceGetInforomVersion, 839);
pass!(nvmlDeviceGetIrqNum, 840);
pass!(nvmlDeviceGetJpgUtilization, 841);
pass!(nvmlDeviceGetLastBBXFlushTime, 842);
pass!(nvmlDeviceGetMarginTemperature, 846);
pass!(nvmlDeviceGetMaxClockInfo, 847);
pass!(nvmlDeviceGetMaxCustomerBoostClock, 848);
pass!(nvmlDeviceGetMaxMigDeviceCount, 849);
pass!(nvmlDeviceGetMaxPcieLinkGeneration, 850);
pass!(nvmlDeviceGetMaxPcieLinkWidth, 851);
pass!(nvmlDeviceGetMemClkMinMaxVfOffset, 852);
pass!(nvmlDeviceGetMemClkVfOffset, 853);
pass!(nvmlDeviceGetMemoryAffinity, 854);
pass!(nvmlDeviceGetMemoryBusWidth, 855);
pass!(nvmlDeviceGetMemoryErrorCounter, 856);
pass!(nvmlDeviceGetMemoryLimits_v1, 859);
pass!(nvmlDeviceGetMigDeviceHandleByIndex, 860);
pass!(nvmlDeviceGetMigMode, 861);
pass!(nvmlDeviceGetMinMaxClockOfPState, 862);
pass!(nvmlDeviceGetMinMaxFanSpeed, 863);
pass!(nvmlDeviceGetMinorNumber, 864);
pass!(nvmlDeviceGetModuleId, 865);
pass!(nvmlDeviceGetMultiGpuBoard, 866);
pass!(nvmlDeviceGetName, 867);
pass!(nvmlDeviceGetNumFans, 868);
pass!(nvmlDeviceGetNumGpuCores, 869);
pass!(nvmlDeviceGetNumaNodeId, 870);
pass!(nvmlDeviceGetNvLinkCapability, 871);
pass!(nvmlDeviceGetNvLinkErrorCounter, 872);
pass!(nvmlDeviceGetNvLinkInfo, 873);
pass!(nvmlDeviceGetNvLinkRemoteDeviceType, 874);
pass!(nvmlDeviceGetNvLinkRemotePciInfo, 875);
pass!(nvmlDeviceGetNvLinkRemotePciInfo_v2, 876);
pass!(nvmlDeviceGetNvLinkState, 877);
pass!(nvmlDeviceGetNvLinkTelemetrySamples_v1, 878);
pass!(nvmlDeviceGetNvLinkUtilizationControl, 879);
pass!(nvmlDeviceGetNvLinkUtilizationCounter, 880);
pass!(nvmlDeviceGetNvLinkVersion, 881);
pass!(nvmlDeviceGetNvlinkBwMode, 882);
pass!(nvmlDeviceGetNvlinkSupportedBwModes, 883);
pass!(nvmlDeviceGetOfaUtilization, 884);
pass!(nvmlDeviceGetP2PStatus, 885);
pass!(nvmlDeviceGetPciInfo, 886);
pass!(nvmlDeviceGetPciInfoExt, 887);
pass!(nvmlDeviceGetPciInfo_v2, 888);
pass!(nvmlDeviceGetPciInfo_v3, 889);
pass!(nvmlDeviceGetPcieLinkMaxSpeed, 890);
pass!(nvmlDeviceGetPcieReplayCounter, 891);
pass!(nvmlDeviceGetPcieSpeed, 892);
pass!(nvmlDeviceGetPcieThroughput, 893);
pass!(nvmlDeviceGetPdi, 894);
pass!(nvmlDeviceGetPerformanceModes, 895);
pass!(nvmlDeviceGetPerformanceState, 896);
pass!(nvmlDeviceGetPersistenceMode, 897);
pass!(nvmlDeviceGetPgpuMetadataString, 898);
pass!(nvmlDeviceGetPlatformInfo, 899);
pass!(nvmlDeviceGetPowerManagementDefaultLimit, 900);
pass!(nvmlDeviceGetPowerManagementLimit, 901);
pass!(nvmlDeviceGetPowerManagementLimitConstraints, 902);
pass!(nvmlDeviceGetPowerManagementMode, 903);
pass!(nvmlDeviceGetPowerMizerMode_v1, 904);
pass!(nvmlDeviceGetPowerSource, 905);
pass!(nvmlDeviceGetPowerState, 906);
pass!(nvmlDeviceGetPowerUsage, 907);
pass!(nvmlDeviceGetRemappedRows, 910);
pass!(nvmlDeviceGetRemappedRows_v2, 911);
pass!(nvmlDeviceGetRepairStatus, 912);
pass!(nvmlDeviceGetRetiredPages, 913);
pass!(nvmlDeviceGetRetiredPagesPendingStatus, 914);
pass!(nvmlDeviceGetRetiredPages_v2, 915);
pass!(nvmlDeviceGetRowRemapperHistogram, 916);
pass!(nvmlDeviceGetSamples, 918);
pass!(nvmlDeviceGetSerial, 919);
pass!(nvmlDeviceGetSramEccErrorStatus, 920);
pass!(nvmlDeviceGetSramUniqueUncorrectedEccErrorCounts, 921);
pass!(nvmlDeviceGetSupportedClocksEventReasons, 922);
pass!(nvmlDeviceGetSupportedClocksThrottleReasons, 923);
pass!(nvmlDeviceGetSupportedEventTypes, 924);
pass!(nvmlDeviceGetSupportedGraphicsClocks, 925);
pass!(nvmlDeviceGetSupportedMemoryClocks, 926);
pass!(nvmlDeviceGetSupportedPerformanceStates, 927);
pass!(nvmlDeviceGetSupportedVgpus, 928);
pass!(nvmlDeviceGetTargetFanSpeed, 929);
pass!(nvmlDeviceGetTemperature, 930);
pass!(nvmlDeviceGetTemperatureThreshold, 931);
pass!(nvmlDeviceGetTemperatureV, 932);
pass!(nvmlDeviceGetThermalSettings, 933);
pass!(nvmlDeviceGetTopologyCommonAncestor, 934);
pass!(nvmlDeviceGetTopologyNearestGpus, 935);
pass!(nvmlDeviceGetTotalEccErrors, 936);
pass!(nvmlDeviceGetTotalEnergyConsumption, 937);
pass!(nvmlDeviceGetUUID, 938);
pass!(nvmlDeviceGetUnrepairableMemoryFlag_v1, 939);
pass!(nvmlDeviceGetVbiosVersion, 941);
pass!(nvmlDeviceGetVgpuCapabilities, 942);
pass!(nvmlDeviceGetVgpuHeterogeneousMode, 943);
pass!(nvmlDeviceGetVgpuInstancesUtilizationInfo, 944);
pass!(nvmlDeviceGetVgpuMetadata, 945);
pass!(nvmlDeviceGetVgpuProcessUtilization, 946);
pass!(nvmlDeviceGetVgpuProcessesUtilizationInfo, 947);
pass!(nvmlDeviceGetVgpuSchedulerCapabilities, 948);
pass!(nvmlDeviceGetVgpuSchedulerLog, 949);
pass!(nvmlDeviceGetVgpuSchedulerLog_v2, 950);
pass!(nvmlDeviceGetVgpuSchedulerState, 951);
pass!(nvmlDeviceGetVgpuSchedulerState_v2, 952);
pass!(nvmlDeviceGetVgpuTypeCreatablePlacements, 953);
pass!(nvmlDeviceGetVgpuTypeSupportedPlacements, 954);
pass!(nvmlDeviceGetVgpuUtilization, 955);
pass!(nvmlDeviceGetViolationStatus, 956);
pass!(nvmlDeviceGetVirtualizationMode, 957);
pass!(nvmlDeviceIsMigDeviceHandle, 958);
refuse!(nvmlDeviceModifyDrainState, 4);
pass!(nvmlDeviceOnSameBoard, 960);
pass!(nvmlDevicePerfMetricsGetSamples_v1, 961);
refuse!(nvmlDevicePowerSmoothingActivatePresetProfile, 4);
refuse!(nvmlDevicePowerSmoothingSetState, 4);
refuse!(nvmlDevicePowerSmoothingUpdatePresetProfileParam, 4);
pass!(nvmlDeviceQueryDrainState, 965);
pass!(nvmlDeviceReadPRMCounters_v1, 966);
refuse!(nvmlDeviceReadWritePRM_v1, 4);
pass!(nvmlDeviceRegisterEvents, 968);
refuse!(nvmlDeviceRemoveGpu, 4);
refuse!(nvmlDeviceRemoveGpu_v2, 4);
refuse!(nvmlDeviceResetApplicationsClocks, 4);
refuse!(nvmlDeviceResetGpuLockedClocks, 4);
refuse!(nvmlDeviceResetMemoryLockedClocks, 4);
refuse!(nvmlDeviceResetNvLinkErrorCounters, 4);
refuse!(nvmlDeviceResetNvLinkUtilizationCounter, 4);
refuse!(nvmlDeviceSetAPIRestriction, 4);
refuse!(nvmlDeviceSetAccountingMode, 4);
refuse!(nvmlDeviceSetAdaptiveTgpMode_v1, 4);
refuse!(nvmlDeviceSetApplicationsClocks, 4);
refuse!(nvmlDeviceSetAutoBoostedClocksEnabled, 4);
refuse!(nvmlDeviceSetClockOffsets, 4);
refuse!(nvmlDeviceSetComputeMode, 4);
refuse!(nvmlDeviceSetConfComputeUnprotectedMemSize, 4);
pass!(nvmlDeviceSetCpuAffinity, 984);
refuse!(nvmlDeviceSetDefaultAutoBoostedClocksEnabled, 4);
refuse!(nvmlDeviceSetDefaultFanSpeed_v2, 4);
refuse!(nvmlDeviceSetDramEncryptionMode, 4);
refuse!(nvmlDeviceSetDriverModel, 4);
refuse!(nvmlDeviceSetEccMode, 4);
refuse!(nvmlDeviceSetFanControlPolicy, 4);
refuse!(nvmlDeviceSetFanSpeed_v2, 4);
refuse!(nvmlDeviceSetGpcClkVfOffset, 4);
refuse!(nvmlDeviceSetGpuLockedClocks, 4);
refuse!(nvmlDeviceSetGpuOperationMode, 4);
refuse!(nvmlDeviceSetHostname_v1, 4);
refuse!(nvmlDeviceSetMemClkVfOffset, 4);
refuse!(nvmlDeviceSetMemoryLimits_v1, 4);
refuse!(nvmlDeviceSetMemoryLockedClocks, 4);
refuse!(nvmlDeviceSetMigMode, 4);
refuse!(nvmlDeviceSetNvLinkDeviceLowPowerThreshold, 4);
refuse!(nvmlDeviceSetNvLinkUtilizationControl, 4);
refuse!(nvmlDeviceSetNvlinkBwMode, 4);
refuse!(nvmlDeviceSetNvlinkBwModeAsync_v1, 4);
refuse!(nvmlDeviceSetPersistenceMode, 4);
refuse!(nvmlDeviceSetPowerManagementLimit, 4);
refuse!(nvmlDeviceSetPowerManagementLimit_v2, 4);
refuse!(nvmlDeviceSetPowerMizerMode_v1, 4);
refuse!(nvmlDeviceSetRusdSettings_v1, 4);
refuse!(nvmlDeviceSetTemperatureThreshold, 4);
refuse!(nvmlDeviceSetVgpuCapabilities, 4);
refuse!(nvmlDeviceSetVgpuHeterogeneousMode, 4);
refuse!(nvmlDeviceSetVgpuSchedulerState, 4);
refuse!(nvmlDeviceSetVgpuSchedulerState_v2, 4);
refuse!(nvmlDeviceSetVirtualizationMode, 4);
refuse!(nvmlDeviceValidateInforom, 4);
refuse!(nvmlDeviceVgpuForceGspUnload, 4);
refuse!(nvmlDeviceWorkloadPowerProfileClearRequestedProfiles, 4);
pass!(nvmlDeviceWorkloadPowerProfileGetCurrentProfiles, 1018);
pass!(nvmlDeviceWorkloadPowerProfileGetProfilesInfo, 1019);
refuse!(nvmlDeviceWorkloadPowerProfileSetRequestedProfiles, 4);
refuse!(nvmlDeviceWorkloadPowerProfileUpdateProfiles_v1, 4);
pass!(nvmlErrorString, 1022);
pass!(nvmlEventSetCreate, 1023);
pass!(nvmlEventSetFree, 1024);
pass!(nvmlEventSetGetContextCount_v1, 1025);
pass!(nvmlEventSetGetContextData_v1, 1026);
pass!(nvmlEventSetGetContextInfo_v1, 1027);
pass!(nvmlEventSetGetGpuOperationalEventContextLegacyXid_v1, 1028);
pass!(nvmlEventSetRegisterGpuOperationalEvents_v1, 1029);
pass!(nvmlEventSetWait, 1030);
pass!(nvmlEventSetWait_v2, 1031);
pass!(nvmlEventSetWait_v3, 1032);
pass!(nvmlGetBlacklistDeviceCount, 1033);
pass!(nvmlGetBlacklistDeviceInfoByIndex, 1034);
pass!(nvmlGetExcludedDeviceCount, 1035);
pass!(nvmlGetExcludedDeviceInfoByIndex, 1036);
pass!(nvmlGetVgpuCompatibility, 1037);
pass!(nvmlGetVgpuDriverCapabilities, 1038);
pass!(nvmlGetVgpuVersion, 1039);
pass!(nvmlGpmMetricsGet, 1040);
refuse!(nvmlGpmMigSampleGet, 4);
pass!(nvmlGpmQueryDeviceSupport, 1042);
pass!(nvmlGpmQueryIfStreamingEnabled, 1043);
pass!(nvmlGpmSampleAlloc, 1044);
pass!(nvmlGpmSampleFree, 1045);
refuse!(nvmlGpmSampleGet, 4);
refuse!(nvmlGpmSetStreamingEnabled, 4);
refuse!(nvmlGpuInstanceCreateComputeInstance, 4);
refuse!(nvmlGpuInstanceCreateComputeInstanceWithPlacement, 4);
refuse!(nvmlGpuInstanceDestroy, 4);
pass!(nvmlGpuInstanceGetActiveVgpus, 1051);
pass!(nvmlGpuInstanceGetComputeInstanceById, 1052);
pass!(nvmlGpuInstanceGetComputeInstancePossiblePlacements, 1053);
pass!(nvmlGpuInstanceGetComputeInstanceProfileInfo, 1054);
pass!(nvmlGpuInstanceGetComputeInstanceProfileInfoV, 1055);
pass!(nvmlGpuInstanceGetComputeInstanceRemainingCapacity, 1056);
pass!(nvmlGpuInstanceGetComputeInstances, 1057);
pass!(nvmlGpuInstanceGetCreatableVgpus, 1058);
pass!(nvmlGpuInstanceGetInfo, 1059);
pass!(nvmlGpuInstanceGetVgpuHeterogeneousMode, 1060);
pass!(nvmlGpuInstanceGetVgpuSchedulerLog, 1061);
pass!(nvmlGpuInstanceGetVgpuSchedulerLog_v2, 1062);
pass!(nvmlGpuInstanceGetVgpuSchedulerState, 1063);
pass!(nvmlGpuInstanceGetVgpuSchedulerState_v2, 1064);
pass!(nvmlGpuInstanceGetVgpuTypeCreatablePlacements, 1065);
refuse!(nvmlGpuInstanceSetVgpuHeterogeneousMode, 4);
refuse!(nvmlGpuInstanceSetVgpuSchedulerState, 4);
refuse!(nvmlGpuInstanceSetVgpuSchedulerState_v2, 4);
pass!(nvmlInternalGetExportTable, 1072);
refuse!(nvmlSetVgpuVersion, 4);
pass!(nvmlShutdown, 1074);
pass!(nvmlSystemEventSetCreate, 1075);
pass!(nvmlSystemEventSetFree, 1076);
pass!(nvmlSystemEventSetWait, 1077);
pass!(nvmlSystemGetCPER_v1, 1078);
pass!(nvmlSystemGetConfComputeCapabilities, 1079);
pass!(nvmlSystemGetConfComputeGpusReadyState, 1080);
pass!(nvmlSystemGetConfComputeKeyRotationThresholdInfo, 1081);
pass!(nvmlSystemGetConfComputeSettings, 1082);
pass!(nvmlSystemGetConfComputeState, 1083);
pass!(nvmlSystemGetCudaDriverVersion, 1084);
pass!(nvmlSystemGetCudaDriverVersion_v2, 1085);
pass!(nvmlSystemGetDriverBranch, 1086);
pass!(nvmlSystemGetDriverVersion, 1087);
pass!(nvmlSystemGetHicVersion, 1088);
pass!(nvmlSystemGetNVMLVersion, 1089);
pass!(nvmlSystemGetNvlinkBwMode, 1090);
pass!(nvmlSystemGetProcessName, 1091);
pass!(nvmlSystemGetTopologyGpuSet, 1092);
pass!(nvmlSystemRegisterEvents, 1093);
refuse!(nvmlSystemSetConfComputeGpusReadyState, 4);
refuse!(nvmlSystemSetConfComputeKeyRotationThresholdInfo, 4);
refuse!(nvmlSystemSetNvlinkBwMode, 4);
pass!(nvmlUnitGetCount, 1097);
pass!(nvmlUnitGetDevices, 1098);
pass!(nvmlUnitGetFanSpeedInfo, 1099);
pass!(nvmlUnitGetHandleByIndex, 1100);
pass!(nvmlUnitGetLedState, 1101);
pass!(nvmlUnitGetPsuInfo, 1102);
pass!(nvmlUnitGetTemperature, 1103);
pass!(nvmlUnitGetUnitInfo, 1104);
refuse!(nvmlUnitSetLedState, 4);
refuse!(nvmlVgpuInstanceClearAccountingPids, 4);
pass!(nvmlVgpuInstanceGetAccountingMode, 1107);
pass!(nvmlVgpuInstanceGetAccountingPids, 1108);
pass!(nvmlVgpuInstanceGetAccountingStats, 1109);
pass!(nvmlVgpuInstanceGetEccMode, 1110);
pass!(nvmlVgpuInstanceGetEncoderCapacity, 1111);
pass!(nvmlVgpuInstanceGetEncoderSessions, 1112);
pass!(nvmlVgpuInstanceGetEncoderStats, 1113);
pass!(nvmlVgpuInstanceGetFBCSessions, 1114);
pass!(nvmlVgpuInstanceGetFBCStats, 1115);
pass!(nvmlVgpuInstanceGetFbUsage, 1116);
pass!(nvmlVgpuInstanceGetFrameRateLimit, 1117);
pass!(nvmlVgpuInstanceGetGpuInstanceId, 1118);
pass!(nvmlVgpuInstanceGetGpuPciId, 1119);
pass!(nvmlVgpuInstanceGetLicenseInfo, 1120);
pass!(nvmlVgpuInstanceGetLicenseInfo_v2, 1121);
pass!(nvmlVgpuInstanceGetLicenseStatus, 1122);
pass!(nvmlVgpuInstanceGetMdevUUID, 1123);
pass!(nvmlVgpuInstanceGetMetadata, 1124);
pass!(nvmlVgpuInstanceGetPlacementId, 1125);
pass!(nvmlVgpuInstanceGetRuntimeStateSize, 1126);
pass!(nvmlVgpuInstanceGetType, 1127);
pass!(nvmlVgpuInstanceGetUUID, 1128);
pass!(nvmlVgpuInstanceGetVmDriverVersion, 1129);
pass!(nvmlVgpuInstanceGetVmID, 1130);
refuse!(nvmlVgpuInstanceSetEncoderCapacity, 4);
pass!(nvmlVgpuTypeGetBAR1Info, 1132);
pass!(nvmlVgpuTypeGetCapabilities, 1133);
pass!(nvmlVgpuTypeGetClass, 1134);
pass!(nvmlVgpuTypeGetDeviceID, 1135);
pass!(nvmlVgpuTypeGetFbReservation, 1136);
pass!(nvmlVgpuTypeGetFrameRateLimit, 1137);
pass!(nvmlVgpuTypeGetFramebufferSize, 1138);
pass!(nvmlVgpuTypeGetGpuInstanceProfileId, 1139);
pass!(nvmlVgpuTypeGetGspHeapSize, 1140);
pass!(nvmlVgpuTypeGetLicense, 1141);
pass!(nvmlVgpuTypeGetMaxInstances, 1142);
pass!(nvmlVgpuTypeGetMaxInstancesPerGpuInstance, 1143);
pass!(nvmlVgpuTypeGetMaxInstancesPerVm, 1144);
pass!(nvmlVgpuTypeGetName, 1145);
pass!(nvmlVgpuTypeGetNumDisplayHeads, 1146);
pass!(nvmlVgpuTypeGetResolution, 1147);
