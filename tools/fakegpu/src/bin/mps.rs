//! The simulated `nvidia-cuda-mps-control`: see [`fakegpu::mps`].
use std::process::ExitCode;

fn main() -> ExitCode {
    fakegpu::mps::main()
}
