"""What an error of a GPU means: less memory than the batch needs, a device that answers no more, or
a fault of the solver. The messages are those of PyTorch 2.11, CUDA 13 and ROCm 7."""

from __future__ import annotations

import pytest
import torch

from posterior_bench.bench.core.errors import TimeoutExceeded
from posterior_bench.bench.core.foreign import Left
from posterior_bench.bench.engine.failures import status_of

AT = "when calling `cublasCreate(handle)`"
MESSAGES = {
    "oom": (
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        f"CUDA error: CUBLAS_STATUS_ALLOC_FAILED {AT}",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "cuFFT error: CUFFT_ALLOC_FAILED",
        "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
        "CUDA driver error: out of memory",
        "HIP error: out of memory",
        "HIP out of memory. Tried to allocate 2.00 GiB",
        "HIP error: HIPBLAS_STATUS_ALLOC_FAILED",
        "miopenStatusAllocFailed",
        "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried",
    ),
    "lost": (
        "CUDA error: an illegal memory access was encountered\nCompile with TORCH_USE_CUDA_DSA",
        "CUDA error: device-side assert triggered",
        "CUDA error: unspecified launch failure",
        "CUDA driver error: unspecified launch failure",
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA error: misaligned address",
        "CUDA error: unknown error",
        f"CUDA error: CUBLAS_STATUS_EXECUTION_FAILED {AT}",
        f"CUDA error: CUBLAS_STATUS_NOT_INITIALIZED {AT}",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "cuDNN error: CUDNN_STATUS_MAPPING_ERROR",
        "cuFFT error: CUFFT_EXEC_FAILED",
        "cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnSpotrf(handle)`",
        "HIP error: an illegal memory access was encountered",
        "MIOpen Error: miopenStatusInternalError",
        "NCCL error in: ProcessGroupNCCL.cpp:3356, unhandled cuda error",
    ),
    "error": (
        "CUDA error: no kernel image is available for execution on the device",
        "CUDA error: invalid configuration argument",
        f"CUDA error: CUBLAS_STATUS_INVALID_VALUE {AT}",
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED",
        "cuDNN error: CUDNN_STATUS_BAD_PARAM",
        "cuFFT error: CUFFT_INVALID_SIZE",
        "mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)",
        "cumsum_cuda_kernel does not have a deterministic implementation, but you set",
        "Expected all tensors to be on the same device, but found at least two, cuda:0 and cpu!",
    ),
}


@pytest.mark.parametrize(
    ("status", "message"),
    [(status, message) for status, messages in MESSAGES.items() for message in messages],
)
def test_messages(status: str, message: str) -> None:
    assert status_of(RuntimeError(message)) == status


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "oom"),
        (torch.OutOfMemoryError("of a kind nobody knows"), "oom"),
        (MemoryError(), "oom"),
        (torch.AcceleratorError("CUDA error: out of memory"), "oom"),
        (torch.AcceleratorError("CUDA error: an error without a name"), "lost"),
        (torch.AcceleratorError("an error without a name"), "lost"),
        (torch.AcceleratorError("CUDA error: invalid argument"), "error"),
        (TimeoutExceeded("CUDA error: it took longer than 3 s"), "timeout"),
        (ValueError("CUDA error: a word of the solver"), "error"),
        (Left("SystemExit: CUDA error"), "error"),
    ],
)
def test_types_decide_before_messages(error: Exception, status: str) -> None:
    assert status_of(error) == status
