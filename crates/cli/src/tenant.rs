//! `cleave internal-tenant`: the small CUDA program of the demo. It knows nothing of slices: it loads `libcuda.so.1` by
//! name, as any program does, allocates, copies, launches, checks, and reports each step as a line of JSON.
// UNSAFETY: it calls the driver's C interface through dlsym.
#![allow(unsafe_code)]
use clap::ValueEnum;
use libloading::{Library, Symbol};
use serde::{Deserialize, Serialize};
use std::ffi::{CStr, c_char, c_void};
use std::io::Write;
use std::time::Duration;

/// What the tenant does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Takes more and more until the driver refuses, frees half, and goes on.
    Grow,
    /// Holds a part of its memory, and takes and frees some more in each iteration.
    Steady,
}

/// How far a tenant is: one line of its output.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// In a word or two.
    pub(crate) state: String,
    /// Iterations done.
    pub(crate) iterations: u32,
    /// Iterations to do.
    pub(crate) of: u32,
    /// Bytes that it has allocated.
    pub(crate) held_bytes: u64,
    /// What `cuMemGetInfo` says the card has.
    pub(crate) card_bytes: u64,
    /// Allocations that the driver refused with `CUDA_ERROR_OUT_OF_MEMORY`.
    pub(crate) out_of_memory: u32,
    /// It has done all that it had to do, and every value was right.
    pub(crate) finished: bool,
    /// What went wrong.
    pub(crate) error: Option<String>,
}

/// Adds 1 to each of `count` words.
const KERNEL: &CStr = c"
.version 7.0
.target sm_50
.address_size 64
.visible .entry increment(.param .u64 data, .param .u32 count)
{
    .reg .pred %p<2>;
    .reg .b32 %r<8>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [data];
    ld.param.u32 %r1, [count];
    cvta.to.global.u64 %rd1, %rd1;
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    mov.u32 %r6, %nctaid.x;
    mul.lo.s32 %r6, %r6, %r3;
LOOP:
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra DONE;
    mul.wide.u32 %rd2, %r5, 4;
    add.s64 %rd3, %rd1, %rd2;
    ld.global.u32 %r7, [%rd3];
    add.u32 %r7, %r7, 1;
    st.global.u32 [%rd3], %r7;
    add.u32 %r5, %r5, %r6;
    bra LOOP;
DONE:
    ret;
}
";
/// Words that are copied, incremented and checked in each iteration.
const WORDS: usize = 64 << 10;
const OUT_OF_MEMORY: i32 = 2;
/// Steps from nothing to the quota.
const STEPS: u64 = 16;
/// Times that it asks again after the first refusal.
const ASK_AGAIN: u32 = 3;
/// Launches in an iteration.
const LAUNCHES: u32 = 20;

type Handle = *mut c_void;

/// Runs the tenant; returns its exit code. `computes`: the device runs kernels, so that their results can be checked.
pub(crate) fn run(mode: Mode, iterations: u32, pause: Duration, computes: bool) -> i32 {
    let mut report = Report { state: "starting".into(), of: iterations, ..Report::default() };
    say(&report);
    let done = Driver::open().and_then(|driver| {
        let mut tenant = Tenant { driver: &driver, report: &mut report, pause, computes, held: Vec::new() };
        match mode {
            Mode::Grow => tenant.grow(iterations),
            Mode::Steady => tenant.steady(iterations),
        }
    });
    match done {
        Ok(()) => {
            report.state = "finished".into();
            report.finished = true;
        }
        Err(error) => {
            report.state = "failed".into();
            report.error = Some(error);
        }
    }
    say(&report);
    i32::from(!report.finished)
}

fn say(report: &Report) {
    if let Ok(line) = serde_json::to_string(report) {
        // Whoever started it may have gone: it is about to be ended, too.
        let _ = writeln!(std::io::stdout(), "{line}");
    }
}

struct Tenant<'a> {
    driver: &'a Driver,
    report: &'a mut Report,
    pause: Duration,
    computes: bool,
    held: Vec<(u64, u64)>,
}

impl Tenant<'_> {
    fn grow(&mut self, iterations: u32) -> Result<(), String> {
        let (_, total) = self.driver.memory()?;
        self.report.card_bytes = total;
        let step = total / STEPS;
        let canary = self.driver.buffer()?;
        self.driver.fill(canary, 7)?;
        // Twice the card is more than any quota: what ends this loop is the driver's refusal.
        let mut refused = false;
        for _ in 0..2 * STEPS {
            if !self.take(step)? {
                refused = true;
                break;
            }
            self.step("growing");
        }
        if !refused {
            return Err(format!("allocated {} bytes of {total} and was never refused", self.report.held_bytes));
        }
        for _ in 0..ASK_AGAIN {
            self.step("at its quota");
            if self.take(step)? {
                return Err("was refused, and then got the same without having freed anything".into());
            }
        }
        // A refusal must have harmed nothing.
        self.driver.check(canary, 7)?;
        self.driver.free(canary)?;
        for _ in 0..self.held.len() / 2 {
            self.give_back()?;
        }
        for _ in 0..iterations {
            self.iterate(step)?;
            self.step("going on");
        }
        while !self.held.is_empty() {
            self.give_back()?;
        }
        Ok(())
    }

    fn steady(&mut self, iterations: u32) -> Result<(), String> {
        let (_, total) = self.driver.memory()?;
        self.report.card_bytes = total;
        for _ in 0..6 {
            if !self.take(total / STEPS)? {
                return Err("was refused memory far below its quota".into());
            }
        }
        for _ in 0..iterations {
            self.iterate(total / STEPS * 4)?;
            self.step("running");
        }
        while !self.held.is_empty() {
            self.give_back()?;
        }
        Ok(())
    }

    /// Allocates, copies in, launches, copies out, checks, frees.
    fn iterate(&mut self, bytes: u64) -> Result<(), String> {
        if !self.take(bytes)? {
            return Err("was refused memory below its quota".into());
        }
        let buffer = self.driver.buffer()?;
        let value = self.report.iterations;
        self.driver.fill(buffer, value)?;
        for _ in 0..LAUNCHES {
            self.driver.increment(buffer)?;
        }
        self.driver.synchronize()?;
        self.driver.check(buffer, if self.computes { value + LAUNCHES } else { value })?;
        self.driver.free(buffer)?;
        self.give_back()?;
        self.report.iterations += 1;
        Ok(())
    }

    /// Allocates `bytes`; false if the driver has no memory left.
    fn take(&mut self, bytes: u64) -> Result<bool, String> {
        match self.driver.allocate(bytes)? {
            Some(at) => {
                self.held.push((at, bytes));
                self.report.held_bytes += bytes;
                Ok(true)
            }
            None => {
                self.report.out_of_memory += 1;
                Ok(false)
            }
        }
    }

    fn give_back(&mut self) -> Result<(), String> {
        if let Some((at, bytes)) = self.held.pop() {
            self.driver.free(at)?;
            self.report.held_bytes -= bytes;
        }
        Ok(())
    }

    fn step(&mut self, state: &str) {
        self.report.state = state.into();
        say(self.report);
        std::thread::sleep(self.pause);
    }
}

/// The loader's reason is the error's source.
fn in_full(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |why| why.to_string())
}

/// The driver, with a context and the kernel.
struct Driver {
    library: Library,
    kernel: Handle,
}

impl Driver {
    fn open() -> Result<Self, String> {
        // SAFETY: a driver library, whose initialisers are meant to run in any process.
        let library = unsafe { Library::new("libcuda.so.1") }.map_err(|e| format!("no driver: {}", in_full(&e)))?;
        let mut driver = Self { library, kernel: std::ptr::null_mut() };
        let (mut device, mut context, mut module) = (0i32, std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: each is called as cuda.h declares it, with places that live through the call.
        unsafe {
            let init: Symbol<unsafe extern "C" fn(u32) -> i32> = driver.entry(c"cuInit")?;
            driver.must("cuInit", init(0))?;
            let get: Symbol<unsafe extern "C" fn(*mut i32, i32) -> i32> = driver.entry(c"cuDeviceGet")?;
            driver.must("cuDeviceGet", get(&mut device, 0))?;
            let retain: Symbol<unsafe extern "C" fn(*mut Handle, i32) -> i32> =
                driver.entry(c"cuDevicePrimaryCtxRetain")?;
            driver.must("cuDevicePrimaryCtxRetain", retain(&mut context, device))?;
            let set: Symbol<unsafe extern "C" fn(Handle) -> i32> = driver.entry(c"cuCtxSetCurrent")?;
            driver.must("cuCtxSetCurrent", set(context))?;
            let load: Symbol<unsafe extern "C" fn(*mut Handle, *const c_char) -> i32> =
                driver.entry(c"cuModuleLoadData")?;
            driver.must("cuModuleLoadData", load(&mut module, KERNEL.as_ptr()))?;
            let function: Symbol<unsafe extern "C" fn(*mut Handle, Handle, *const c_char) -> i32> =
                driver.entry(c"cuModuleGetFunction")?;
            let mut kernel = std::ptr::null_mut();
            driver.must("cuModuleGetFunction", function(&mut kernel, module, c"increment".as_ptr()))?;
            driver.kernel = kernel;
        }
        Ok(driver)
    }

    /// # Safety
    /// `T` must be the entry's type in cuda.h.
    unsafe fn entry<T>(&self, name: &CStr) -> Result<Symbol<'_, T>, String> {
        // SAFETY: the caller's.
        unsafe { self.library.get(name) }
            .map_err(|e| format!("the driver lacks {}: {}", name.to_string_lossy(), in_full(&e)))
    }

    fn must(&self, call: &str, result: i32) -> Result<(), String> {
        if result == 0 { Ok(()) } else { Err(format!("{call}: {}", self.name(result))) }
    }

    fn name(&self, result: i32) -> String {
        let mut name: *const c_char = std::ptr::null();
        // SAFETY: as cuda.h declares it; the text it gives is static.
        unsafe {
            if let Ok(get) = self.entry::<unsafe extern "C" fn(i32, *mut *const c_char) -> i32>(c"cuGetErrorName")
                && get(result, &mut name) == 0
                && !name.is_null()
            {
                return CStr::from_ptr(name).to_string_lossy().into_owned();
            }
        }
        format!("error {result}")
    }

    fn memory(&self) -> Result<(u64, u64), String> {
        let (mut free, mut total) = (0usize, 0usize);
        // SAFETY: as cuda.h declares it, with places that live through the call.
        unsafe {
            let get: Symbol<unsafe extern "C" fn(*mut usize, *mut usize) -> i32> = self.entry(c"cuMemGetInfo_v2")?;
            self.must("cuMemGetInfo", get(&mut free, &mut total))?;
        }
        Ok((free as u64, total as u64))
    }

    /// `None` if the driver says that it is out of memory.
    fn allocate(&self, bytes: u64) -> Result<Option<u64>, String> {
        let mut at = 0u64;
        // SAFETY: as cuda.h declares it, with a place that lives through the call.
        let result = unsafe {
            let allocate: Symbol<unsafe extern "C" fn(*mut u64, usize) -> i32> = self.entry(c"cuMemAlloc_v2")?;
            allocate(&mut at, bytes as usize)
        };
        match result {
            OUT_OF_MEMORY => Ok(None),
            other => self.must("cuMemAlloc", other).map(|()| Some(at)),
        }
    }

    fn free(&self, at: u64) -> Result<(), String> {
        // SAFETY: as cuda.h declares it; `at` came from `allocate`, and each is freed once.
        unsafe {
            let free: Symbol<unsafe extern "C" fn(u64) -> i32> = self.entry(c"cuMemFree_v2")?;
            self.must("cuMemFree", free(at))
        }
    }

    /// Device memory for [`WORDS`] words.
    fn buffer(&self) -> Result<u64, String> {
        self.allocate(WORDS as u64 * 4)?.ok_or_else(|| "was refused 256 KiB below its quota".into())
    }

    /// Copies words that count up from `from` to a buffer.
    fn fill(&self, buffer: u64, from: u32) -> Result<(), String> {
        let words: Vec<u32> = (0..WORDS as u32).map(|i| i.wrapping_add(from)).collect();
        // SAFETY: as cuda.h declares it; the buffer has room for WORDS words.
        unsafe {
            let copy: Symbol<unsafe extern "C" fn(u64, *const u32, usize) -> i32> = self.entry(c"cuMemcpyHtoD_v2")?;
            self.must("cuMemcpyHtoD", copy(buffer, words.as_ptr(), WORDS * 4))
        }
    }

    /// Copies a buffer back, and compares it to words that count up from `from`.
    fn check(&self, buffer: u64, from: u32) -> Result<(), String> {
        let mut words = vec![0u32; WORDS];
        // SAFETY: as cuda.h declares it; both sides have WORDS words.
        unsafe {
            let copy: Symbol<unsafe extern "C" fn(*mut u32, u64, usize) -> i32> = self.entry(c"cuMemcpyDtoH_v2")?;
            self.must("cuMemcpyDtoH", copy(words.as_mut_ptr(), buffer, WORDS * 4))?;
        }
        match words.iter().enumerate().find(|(i, word)| **word != (*i as u32).wrapping_add(from)) {
            None => Ok(()),
            Some((i, word)) => {
                Err(format!("word {i} of a buffer came back as {word}, not {}", (i as u32).wrapping_add(from)))
            }
        }
    }

    fn increment(&self, buffer: u64) -> Result<(), String> {
        type Launch = unsafe extern "C" fn(
            Handle,
            u32,
            u32,
            u32,
            u32,
            u32,
            u32,
            u32,
            Handle,
            *mut *const c_void,
            *mut *const c_void,
        ) -> i32;
        let count = WORDS as u32;
        let mut arguments = [(&raw const buffer).cast::<c_void>(), (&raw const count).cast()];
        // SAFETY: as cuda.h declares it; the kernel takes a pointer and a count, and stays within the buffer.
        unsafe {
            let launch: Symbol<Launch> = self.entry(c"cuLaunchKernel")?;
            let null = std::ptr::null_mut();
            let result =
                launch(self.kernel, 64, 1, 1, 256, 1, 1, 0, null, arguments.as_mut_ptr(), std::ptr::null_mut());
            self.must("cuLaunchKernel", result)
        }
    }

    fn synchronize(&self) -> Result<(), String> {
        // SAFETY: as cuda.h declares it.
        unsafe {
            let synchronize: Symbol<unsafe extern "C" fn() -> i32> = self.entry(c"cuCtxSynchronize")?;
            self.must("cuCtxSynchronize", synchronize())
        }
    }
}
