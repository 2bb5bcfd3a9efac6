//! Loads the built library as a program would, each test its own copy from its own directory.
#![allow(dead_code)] // Each test file uses its part.

use std::ffi::{CString, c_void};
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// One MiB.
pub const MIB: u64 = 1 << 20;
/// What a context of the H100 takes.
pub const CONTEXT: u64 = 543_162_368;
/// What the H100 has.
pub const TOTAL: u64 = 85_017_493_504;

/// An installation that is removed with this value, if it made it.
pub struct Installed {
    pub dir: PathBuf,
    own: bool,
}

impl Installed {
    /// Devices whose time is virtual.
    pub fn new(spec: &str) -> Installed {
        Installed::with_pace(spec, fakegpu::Pace::Virtual)
    }

    /// Devices whose time passes.
    pub fn real(spec: &str) -> Installed {
        Installed::with_pace(spec, fakegpu::Pace::Real)
    }

    fn with_pace(spec: &str, pace: fakegpu::Pace) -> Installed {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("fakegpu-test-{}-{number}", std::process::id()));
        // Cargo builds the cdylib beside the test programs.
        let exe = std::env::current_exe().expect("own path");
        let library = exe.parent().expect("folder").join("libfakegpu.so");
        let bytes = std::fs::read(&library).unwrap_or_else(|e| panic!("{}: {e}", library.display()));
        let control = std::fs::read(env!("CARGO_BIN_EXE_nvidia-cuda-mps-control")).expect("built");
        let mut inventory = fakegpu::Inventory::parse(spec).expect("spec");
        inventory.pace = pace;
        fakegpu::install_inventory(&dir, &inventory, &bytes, &control).expect("install");
        Installed { dir, own: true }
    }

    pub fn at(dir: &str) -> Installed {
        Installed { dir: dir.into(), own: false }
    }

    pub fn load(&self) -> Gpu {
        Gpu::open(&self.dir.join("libcuda.so.1"))
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        if self.own {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// The library, loaded.
pub struct Gpu {
    handle: *mut c_void,
}

/// Something that can be passed to a C function in an integer register.
pub trait Argument {
    fn word(self) -> u64;
}

macro_rules! integers {
    ($($type:ty)*) => { $(impl Argument for $type { fn word(self) -> u64 { self as u64 } })* };
}
integers!(u8 u32 i32 u64 i64 usize);

impl<T> Argument for *mut T {
    fn word(self) -> u64 {
        self as u64
    }
}

impl<T> Argument for *const T {
    fn word(self) -> u64 {
        self as u64
    }
}

impl<T> Argument for &mut T {
    fn word(self) -> u64 {
        std::ptr::from_mut(self) as u64
    }
}

impl<T> Argument for &T {
    fn word(self) -> u64 {
        std::ptr::from_ref(self) as u64
    }
}

/// Calls an entry point: `call!(gpu, cuMemAlloc_v2, &mut pointer, bytes)`.
#[macro_export]
macro_rules! call {
    ($gpu:expr, $name:ident $(, $argument:expr)* $(,)?) => {{
        #[allow(unused_imports)]
        use $crate::common::Argument;
        $gpu.invoke(stringify!($name), &[$($argument.word()),*])
    }};
}

/// The same, and the call must succeed.
#[macro_export]
macro_rules! ok {
    ($gpu:expr, $name:ident $(, $argument:expr)* $(,)?) => {
        assert_eq!($crate::call!($gpu, $name $(, $argument)*), 0, stringify!($name))
    };
}

impl Gpu {
    fn open(path: &Path) -> Gpu {
        let path = CString::new(path.to_str().expect("UTF-8")).expect("no zero");
        // SAFETY: loads a library whose initialisers do nothing.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null(), "{path:?}");
        Gpu { handle }
    }

    /// The address of an exported symbol.
    pub fn symbol(&self, name: &str) -> *mut c_void {
        let name = CString::new(name).expect("no zero");
        // SAFETY: the handle is open.
        let found = unsafe { libc::dlsym(self.handle, name.as_ptr()) };
        assert!(!found.is_null(), "{name:?}");
        found
    }

    /// Calls an exported function with integer and pointer arguments.
    pub fn invoke(&self, name: &str, arguments: &[u64]) -> i32 {
        let mut a = [0; 12];
        a[..arguments.len()].copy_from_slice(arguments);
        type Function = unsafe extern "C" fn(u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64) -> i32;
        // SAFETY: the C functions called take at most twelve words and ignore those beyond their own.
        let function: Function = unsafe { std::mem::transmute(self.symbol(name)) };
        // SAFETY: as above; the tests pass pointers that are valid for the call.
        unsafe { function(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11]) }
    }

    /// Initialises, and makes the primary context of a device current.
    pub fn start(&self, device: i32) -> u64 {
        let mut context = 0_u64;
        ok!(self, cuInit, 0);
        ok!(self, cuDevicePrimaryCtxRetain, &mut context, device);
        ok!(self, cuCtxSetCurrent, context);
        context
    }

    /// Free bytes of the current device.
    pub fn free(&self) -> u64 {
        let (mut free, mut total) = (0_u64, 0_u64);
        ok!(self, cuMemGetInfo_v2, &mut free, &mut total);
        free
    }

    /// Bytes in use of an H100.
    pub fn used(&self) -> u64 {
        TOTAL - self.free()
    }

    /// Allocates.
    pub fn alloc(&self, bytes: u64) -> u64 {
        let mut pointer = 0_u64;
        ok!(self, cuMemAlloc_v2, &mut pointer, bytes);
        pointer
    }

    /// NVML's list of processes on a device.
    fn processes(&self, device: u32) -> Vec<[u64; 3]> {
        ok!(self, nvmlInit_v2);
        let mut handle = 0_u64;
        ok!(self, nvmlDeviceGetHandleByIndex_v2, device, &mut handle);
        let mut count = 64_u32;
        let mut list = [[0_u64; 3]; 64];
        ok!(self, nvmlDeviceGetComputeRunningProcesses_v3, handle, &mut count, &mut list);
        ok!(self, nvmlShutdown);
        list[..count as usize].to_vec()
    }

    /// The clients of MPS servers in it, with their bytes.
    pub fn clients(&self, device: u32) -> Vec<(u32, u64)> {
        ok!(self, nvmlInit_v2);
        let mut handle = 0_u64;
        ok!(self, nvmlDeviceGetHandleByIndex_v2, device, &mut handle);
        let mut count = 64_u32;
        let mut list = [[0_u64; 3]; 64];
        ok!(self, nvmlDeviceGetMPSComputeRunningProcesses_v3, handle, &mut count, &mut list);
        ok!(self, nvmlShutdown);
        list[..count as usize].iter().map(|row| (row[0] as u32, row[1])).collect()
    }

    /// The pids in it.
    pub fn pids(&self, device: u32) -> Vec<u32> {
        self.processes(device).iter().map(|row| row[0] as u32).collect()
    }

    /// What NVML says this process uses of a device.
    pub fn visible(&self, device: u32) -> u64 {
        self.processes(device).iter().find(|row| row[0] as u32 == std::process::id()).map_or(0, |row| row[1])
    }

    /// A kernel of a module in our own text.
    pub fn kernel(&self, text: &str, name: &str) -> u64 {
        let text = CString::new(format!("//fakegpu\n{text}\n")).expect("no zero");
        let name = CString::new(name).expect("no zero");
        let (mut module, mut function) = (0_u64, 0_u64);
        ok!(self, cuModuleLoadData, &mut module, text.as_ptr());
        ok!(self, cuModuleGetFunction, &mut function, module, name.as_ptr());
        function
    }

    /// Launches one block of one thread.
    pub fn launch(&self, function: u64, stream: u64) -> i32 {
        call!(self, cuLaunchKernel, function, 1, 1, 1, 1, 1, 1, 0, stream, 0, 0)
    }
}

/// `CUdevResource`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource {
    pub kind: u32,
    pub internal: [u32; 23],
    pub count: u32,
    pub least: u32,
    pub alignment: u32,
    pub rest: [u32; 9],
}

impl Resource {
    /// Nothing yet.
    pub const NONE: Resource =
        Resource { kind: 77, internal: [77; 23], count: 77, least: 77, alignment: 77, rest: [77; 9] };
}

impl Gpu {
    /// All multiprocessors of a device.
    pub fn sms(&self, device: i32) -> Resource {
        let mut all = Resource::NONE;
        ok!(self, cuDeviceGetDevResource, device, &mut all, 1);
        all
    }

    /// At most `most` groups of `size` and what is left, or the error.
    pub fn split(&self, from: &Resource, most: u32, flags: u32, size: u32) -> Result<(Vec<Resource>, Resource), i32> {
        let (mut groups, mut made, mut rest) = (vec![Resource::NONE; most as usize], most, Resource::NONE);
        match call!(self, cuDevSmResourceSplitByCount, groups.as_mut_ptr(), &mut made, from, &mut rest, flags, size) {
            0 => {
                groups.truncate(made as usize);
                Ok((groups, rest))
            }
            code => Err(code),
        }
    }

    /// A green context with these on the first device: its handle and its `CUcontext`.
    pub fn green(&self, resources: &[Resource]) -> Result<(u64, u64), i32> {
        let (mut description, mut green, mut context) = (0_u64, 0_u64, 0_u64);
        match call!(self, cuDevResourceGenerateDesc, &mut description, resources.as_ptr(), resources.len()) {
            0 => {
                ok!(self, cuGreenCtxCreate, &mut green, description, 0, 1);
                ok!(self, cuCtxFromGreenCtx, &mut context, green);
                Ok((green, context))
            }
            code => Err(code),
        }
    }
}

/// A process that does what it is told, one line at a time.
pub struct Program {
    pub child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Program {
    /// Starts the test `child` of the calling test program, which has to call [`obey`].
    pub fn start(installed: &Installed, environment: &[(&str, &str)]) -> Program {
        let mut child = Command::new(std::env::current_exe().expect("own path"))
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env("FAKEGPU_OBEY", &installed.dir)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start");
        let input = child.stdin.take().expect("piped");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Program { child, input, lines }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn tell(&mut self, command: &str) {
        writeln!(self.input, "{command}").expect("it listens");
    }

    /// What it answers to the first command that it has not answered yet.
    pub fn hear(&mut self) -> Vec<i64> {
        let answer =
            self.lines.by_ref().map_while(Result::ok).find_map(|line| line.strip_prefix("= ").map(str::to_owned));
        answer.expect("an answer").split(' ').map(|word| word.parse().expect("number")).collect()
    }

    pub fn ask(&mut self, command: &str) -> Vec<i64> {
        self.tell(command);
        self.hear()
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("SIGKILL");
        self.child.wait().expect("reaped");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Does what a [`Program`] is told.
pub fn obey() {
    let Ok(dir) = std::env::var("FAKEGPU_OBEY") else { return };
    let gpu = Installed::at(&dir).load();
    let (mut work, mut bad, mut stuck, mut pointer, mut events) = (0, 0, 0, 0_u64, [0_u64; 2]);
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = || words[1].parse::<u64>().expect("number");
        let answer: Vec<i64> = match words[0] {
            "start" => {
                let code = call!(gpu, cuInit, 0);
                if code == 0 {
                    gpu.start(0);
                    work = gpu.kernel("kernel work each=1ns", "work");
                    bad = gpu.kernel("kernel bad fault=illegal_address", "bad");
                    stuck = gpu.kernel("kernel stuck fault=hang", "stuck");
                    events.iter_mut().for_each(|event| ok!(gpu, cuEventCreate, event, 0));
                }
                vec![code.into()]
            }
            "multiprocessors" => {
                let mut value = 0_i32;
                vec![call!(gpu, cuDeviceGetAttribute, &mut value, 16, 0).into(), value.into()]
            }
            // A context of so many multiprocessors, on top of the others.
            "affinity" => {
                let (mut context, mut got) = (0_u64, [0_u32; 2]);
                let code = call!(gpu, cuCtxCreate_v3, &mut context, &[0_u32, number() as u32], 1, 0, 0);
                call!(gpu, cuCtxGetExecAffinity, &mut got, 0);
                vec![code.into(), got[1].into()]
            }
            // A green context of so many groups of 8 behind the first so many.
            "green" => {
                let (skip, count) = (number() as usize, words[2].parse::<usize>().expect("number"));
                match gpu.split(&gpu.sms(0), 15, 0, 8) {
                    Ok((groups, _)) => {
                        let made = gpu.green(&groups[skip..skip + count]);
                        let code = made.map_or_else(|code| code, |(_, context)| call!(gpu, cuCtxSetCurrent, context));
                        vec![code.into()]
                    }
                    Err(code) => vec![code.into()],
                }
            }
            // Devices, and of the first multiprocessors and MiB.
            "seen" => {
                let (mut devices, mut value, mut bytes) = (0_i32, 0_i32, 0_u64);
                ok!(gpu, cuDeviceGetCount, &mut devices);
                ok!(gpu, cuDeviceGetAttribute, &mut value, 16, 0);
                ok!(gpu, cuDeviceTotalMem_v2, &mut bytes, 0);
                vec![devices.into(), value.into(), (bytes / MIB) as i64]
            }
            // NVML's MIG mode of the first card, the one that is and the one that is wanted.
            "mig" => {
                let (mut card, mut current, mut pending) = (0_u64, 9_u32, 9_u32);
                ok!(gpu, nvmlInit_v2);
                ok!(gpu, nvmlDeviceGetHandleByIndex_v2, 0, &mut card);
                ok!(gpu, nvmlDeviceGetMigMode, card, &mut current, &mut pending);
                vec![current.into(), pending.into()]
            }
            "free" => vec![gpu.free() as i64],
            "alloc" => {
                let code = call!(gpu, cuMemAlloc_v2, &mut pointer, number());
                vec![code.into(), pointer as i64]
            }
            "fill" => vec![call!(gpu, cuMemsetD8_v2, pointer, number(), 4096_u64).into()],
            "read" => {
                let mut byte = 0_u8;
                vec![call!(gpu, cuMemcpyDtoH_v2, &mut byte, pointer, 1_u64).into(), byte.into()]
            }
            // Launches something of so many nanoseconds and does not wait for it.
            "launch" => {
                let length = number();
                vec![call!(gpu, cuLaunchKernel, work, 1, 1, 1, 1, 1, 1, 0, 0, &[&raw const length], 0).into()]
            }
            "sync" => vec![call!(gpu, cuCtxSynchronize).into()],
            "query" => vec![call!(gpu, cuStreamQuery, 0).into()],
            // The same between two events, and how long it took on the device's clock; behind as much work, so that all of
            // it is there when the first event is reached.
            "timed" => {
                let (length, mut took) = (number(), 0_f32);
                call!(gpu, cuLaunchKernel, work, 1, 1, 1, 1, 1, 1, 0, 0, &[&raw const length], 0);
                call!(gpu, cuEventRecord, events[0], 0);
                call!(gpu, cuLaunchKernel, work, 1, 1, 1, 1, 1, 1, 0, 0, &[&raw const length], 0);
                call!(gpu, cuEventRecord, events[1], 0);
                let code = call!(gpu, cuEventSynchronize, events[1]);
                call!(gpu, cuEventElapsedTime, &mut took, events[0], events[1]);
                vec![code.into(), (f64::from(took) * 1e6).round() as i64]
            }
            "fault" => vec![gpu.launch(bad, 0).into(), call!(gpu, cuCtxSynchronize).into()],
            "hang" => vec![gpu.launch(stuck, 0).into()],
            other => panic!("{other}"),
        };
        println!("\n= {}", answer.iter().map(i64::to_string).collect::<Vec<_>>().join(" "));
    }
}

/// A stream with these flags.
pub fn stream(gpu: &Gpu, flags: u32) -> u64 {
    let mut stream = 0_u64;
    ok!(gpu, cuStreamCreate, &mut stream, flags);
    stream
}

/// An event.
pub fn event(gpu: &Gpu) -> u64 {
    let mut event = 0_u64;
    ok!(gpu, cuEventCreate, &mut event, 0);
    event
}
