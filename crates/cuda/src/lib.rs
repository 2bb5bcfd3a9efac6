//! The CUDA driver's and NVML's ABI as data.
//!
//! `table/cuda.tsv` and `table/nvml.tsv` hold one row for every name that the real libraries export: the decision
//! ([`Decision`]) and its reason. Everything that must agree about these names is made from the two files: the
//! stand-in library's exports, the simulated driver's exports, and the check that no name is undecided.
//!
//! This crate uses nothing, not even `std`, so that the injected library can use it.
#![no_std]

pub mod types;

/// What the stand-in library does with a call of an entry point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Runs code of ours around the real entry point.
    Hook,
    /// Jumps to the real entry point with every register and the stack as the caller left them.
    Pass,
    /// Returns the library's own "not permitted" error.
    Refuse,
    /// Is not exported: the name is no part of the API that programs use.
    Omit,
}

/// One row of a table: an exported name, what is done with it, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The exported symbol, ABI suffixes (`_v2`, `_ptsz`, `_ptds`) included.
    pub symbol: &'a str,
    /// What the stand-in does with it.
    pub decision: Decision,
    /// Why, in a few words.
    pub reason: &'a str,
}

/// The CUDA driver's rows, as shipped.
pub const CUDA_TABLE: &str = include_str!("../table/cuda.tsv");
/// NVML's rows, as shipped.
pub const NVML_TABLE: &str = include_str!("../table/nvml.tsv");

/// Kernels of collective operations, as shipped.
pub const COLLECTIVES: &str = include_str!("../table/collectives.tsv");

/// The parts of names by which kernels of collective operations are known ([`COLLECTIVES`]).
pub fn collectives() -> impl Iterator<Item = &'static str> {
    let rows = COLLECTIVES.lines().filter(|line| !line.starts_with('#')).skip(1);
    rows.filter_map(|line| line.split('\t').next())
}

/// Reads a table: comments start with `#`, the first other line is the header, columns are separated by one tab.
/// A row that is malformed or undecided comes back as `Err` with its text.
pub fn rows(table: &str) -> impl Iterator<Item = Result<Entry<'_>, &str>> {
    table.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).skip(1).map(|line| {
        let mut columns = line.split('\t');
        let (Some(symbol), Some(decision), Some(reason), None) =
            (columns.next(), columns.next(), columns.next(), columns.next())
        else {
            return Err(line);
        };
        let decision = match decision {
            "hook" => Decision::Hook,
            "pass" => Decision::Pass,
            "refuse" => Decision::Refuse,
            "omit" => Decision::Omit,
            _ => return Err(line),
        };
        if symbol.is_empty() || reason.is_empty() {
            return Err(line);
        }
        Ok(Entry { symbol, decision, reason })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_decided_and_sorted_and_there_once() {
        for table in [CUDA_TABLE, NVML_TABLE] {
            let mut last = "";
            for row in rows(table) {
                let row = row.unwrap_or_else(|line| panic!("undecided or malformed row: {line:?}"));
                assert!(row.symbol > last, "{} must come once, after {last}", row.symbol);
                last = row.symbol;
            }
        }
    }

    /// Names as profilers show them and as symbol tables have them.
    #[test]
    fn a28_collective_kernels_are_told_from_others() {
        let collective = |name: &str| collectives().any(|part| name.contains(part));
        for name in [
            "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
            "_Z39ncclDevKernel_AllReduce_Sum_f32_RING_LL24ncclDevKernelArgsStorageILm4096EE",
            "ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)",
            "ncclKernel_AllReduce_RING_LL_Sum_float(ncclDevComm*, unsigned long, ncclWork*)",
            "nvshmemi_barrier_all_kernel()",
            "void vllm::cross_device_reduce_1stage<__nv_bfloat16, 8>(vllm::RankData*, vllm::RankSignals, vllm::Signal*)",
            "_ZN4vllm26cross_device_reduce_2stageI6__halfLi4EEEvPNS_8RankDataENS_11RankSignalsEPNS_6SignalEPT_ii",
            "void sglang::cross_device_reduce_1stage<__half, 8>(sglang::RankData*, sglang::RankSignals, sglang::Signal*)",
            "void deep_ep::intranode::dispatch<8, 768, 8192>(int4*, float*)",
            "void tensorrt_llm::kernels::oneShotAllReduceKernel<__half, 8>(tensorrt_llm::kernels::AllReduceParams)",
        ] {
            assert!(collective(name), "{name}");
        }
        for name in [
            "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1_execute_segment_k_off_kernel",
            "void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_256x128_32x3_tn_align8>(Params)",
            "nvjet_sm90_hss_320x128",
            "void pytorch_flash::flash_fwd_splitkv_kernel<traits>(pytorch_flash::Flash_fwd_params)",
            "void vllm::paged_attention_v2_kernel<unsigned short, unsigned short, 128, 16, 128>(float*)",
            "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>, std::array<char*, 1>>",
            "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float>>(at::native::ReduceOp<float>)",
            "triton_red_fused_add_mean_pow_rsqrt_0",
            "void marlin::Marlin<256, 1, 8, 8, 4, 8>(int4 const*, int4 const*, int4*)",
            "fused_moe_kernel",
        ] {
            assert!(!collective(name), "{name}");
        }
    }

    #[test]
    fn a_row_without_decision_or_reason_is_an_error() {
        for bad in ["cuFoo\t\twhy", "cuFoo\thook\t", "cuFoo\thook", "cuFoo\tmaybe\twhy", "cuFoo\thook\twhy\tmore"] {
            let table = ["symbol\tdecision\treason", bad].join("\n");
            assert_eq!(rows(&table).next(), Some(Err(bad)));
        }
    }
}
