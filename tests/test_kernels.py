"""What a step spends its time on, as benchmarks/train.py --kernels says it."""

import pytest
import torch
from torch import nn

from benchmarks.kernels import kernels_of, kind_of


def test_operations_are_counted_by_step_and_by_kind() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 5), nn.Flatten(), nn.Linear(16 * 28 * 28, 4))
    images = torch.rand(8, 3, 32, 32)
    found = kernels_of(lambda: net(images).sum().backward(), torch.device("cpu"), steps=2)
    runs = {each["name"]: each["runs"] for each in found["slowest"]}
    assert runs["aten::convolution_backward"] == 1
    assert sum(found["ms_by_kind"].values()) == pytest.approx(found["ms"])
    assert found["ms_by_kind"]["convolution"] > found["ms"] / 10
    assert found["ms_by_kind"]["matrix product"] > 0
    assert found["kernels"] > 10


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64", "convolution"),
        ("void cutlass__5x_cudnn::Kernel<cutlass_tensorop_bf16_s16816wgrad_optimized_bf16_64x64>", "convolution"),
        ("void implicit_convolve_sgemm<__nv_bfloat16, 1024, 5, 5, 3>", "convolution"),
        ("void cudnn::ops::nchwToNhwcKernel<__nv_bfloat16, float>", "copy"),
        ("void cudnn::ops::convertTensor_kernel<float>", "copy"),
        ("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NNT", "matrix product"),
        ("void at::native::elementwise_kernel<128, 4, direct_copy_kernel_cuda(at::TensorIteratorBase&)>", "copy"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>", "element-wise"),
        ("void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, MeanOps>>", "reduction"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimizer"),
        ("void at::native::(anonymous namespace)::CatArrayBatchedCopy_vectorized<OpaqueType>", "copy"),
        ("void at::native::batch_norm_backward_cuda_channels_last_kernel<float>", "normalisation"),
        ("void at::native::(anonymous namespace)::grid_sampler_2d_backward_kernel<float, int>", "sampling"),
        ("Memcpy DtoD (Device -> Device)", "copy"),
        ("triton_poi_fused_mul_sigmoid_12", "element-wise"),
        ("triton_red_fused_mean_3", "reduction"),
        ("void dot_kernel<float, 128>", "other"),
    ],
)
def test_the_kind_of_a_gpu_kernel_is_read_from_its_name(name: str, kind: str) -> None:
    assert kind_of(name) == kind
