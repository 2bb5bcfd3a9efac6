//! The CUDA driver, loaded at run time in a process of its own: what a context costs is found by making one.
use super::library::Library;
use crate::checkpoint::{Call, Driver};
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::path::Path;

type Return = c_uint;
const MULTIPROCESSORS: c_int = 16;
const THREADS_PER_MULTIPROCESSOR: c_int = 39;

/// Makes the primary context of the device with this UUID (16 bytes as CUDA gives them), and keeps it. Gives the
/// device's multiprocessors × resident threads of each.
pub fn make_context(libcuda: &Path, uuid: [u8; 16]) -> Result<u64, String> {
    let library = Library::open(libcuda)?;
    // SAFETY: every type is the one that cuda.h declares for the name.
    let (init, count, get, uuid_of, attribute, retain, current) = unsafe {
        (
            library.function::<unsafe extern "C" fn(c_uint) -> Return>(c"cuInit"),
            library.function::<unsafe extern "C" fn(*mut c_int) -> Return>(c"cuDeviceGetCount"),
            library.function::<unsafe extern "C" fn(*mut c_int, c_int) -> Return>(c"cuDeviceGet"),
            library
                .function::<unsafe extern "C" fn(*mut [u8; 16], c_int) -> Return>(c"cuDeviceGetUuid_v2")
                .or_else(|| library.function(c"cuDeviceGetUuid")),
            library.function::<unsafe extern "C" fn(*mut c_int, c_int, c_int) -> Return>(c"cuDeviceGetAttribute"),
            library.function::<unsafe extern "C" fn(*mut *mut c_void, c_int) -> Return>(c"cuDevicePrimaryCtxRetain"),
            library.function::<unsafe extern "C" fn(*mut c_void) -> Return>(c"cuCtxSetCurrent"),
        )
    };
    let missing = |name: &str| format!("{} has no {name}", libcuda.display());
    let init = init.ok_or_else(|| missing("cuInit"))?;
    let count = count.ok_or_else(|| missing("cuDeviceGetCount"))?;
    let get = get.ok_or_else(|| missing("cuDeviceGet"))?;
    let uuid_of = uuid_of.ok_or_else(|| missing("cuDeviceGetUuid"))?;
    let attribute = attribute.ok_or_else(|| missing("cuDeviceGetAttribute"))?;
    let retain = retain.ok_or_else(|| missing("cuDevicePrimaryCtxRetain"))?;
    let current = current.ok_or_else(|| missing("cuCtxSetCurrent"))?;
    let say = |what: &str, code: Return| format!("{what}: {}", error_name(&library, code));
    let check = |what: &str, code: Return| if code == 0 { Ok(()) } else { Err(say(what, code)) };

    // SAFETY: every pointer is to a local of the type that the function writes.
    unsafe {
        check("cuInit", init(0))?;
        let mut devices = 0;
        check("cuDeviceGetCount", count(&mut devices))?;
        for ordinal in 0..devices {
            let mut device = 0;
            check("cuDeviceGet", get(&mut device, ordinal))?;
            let mut found = [0; 16];
            check("cuDeviceGetUuid", uuid_of(&mut found, device))?;
            if found != uuid {
                continue;
            }
            let (mut processors, mut threads) = (0, 0);
            check("cuDeviceGetAttribute", attribute(&mut processors, MULTIPROCESSORS, device))?;
            check("cuDeviceGetAttribute", attribute(&mut threads, THREADS_PER_MULTIPROCESSOR, device))?;
            let mut context = std::ptr::null_mut();
            check("cuDevicePrimaryCtxRetain", retain(&mut context, device))?;
            check("cuCtxSetCurrent", current(context))?;
            return Ok(u64::try_from(processors).unwrap_or(0) * u64::try_from(threads).unwrap_or(0));
        }
    }
    Err("CUDA does not see this GPU".into())
}

fn error_name(library: &Library, code: Return) -> String {
    // SAFETY: the type is the one that cuda.h declares.
    let function =
        unsafe { library.function::<unsafe extern "C" fn(Return, *mut *const c_char) -> Return>(c"cuGetErrorName") };
    let mut name: *const c_char = std::ptr::null();
    // SAFETY: writes null or a pointer to a C string that lives as long as the library.
    match function.map(|f| unsafe { f(code, &mut name) }) {
        // SAFETY: as above.
        Some(0) if !name.is_null() => unsafe { std::ffi::CStr::from_ptr(name) }.to_string_lossy().into_owned(),
        _ => format!("CUDA error {code}"),
    }
}

/// The arguments of a checkpoint call: all have this size, and what is not used is 0.
#[repr(C)]
struct Arguments {
    timeout_ms: c_uint,
    reserved: [c_uint; 15],
}

type AboutProcess = unsafe extern "C" fn(c_int, *const Arguments) -> Return;

/// The driver's checkpoints of other processes.
pub struct Checkpoints {
    library: Library,
    /// Lock, checkpoint, restore, unlock.
    calls: [AboutProcess; 4],
    state: unsafe extern "C" fn(c_int, *mut c_int) -> Return,
}

impl Checkpoints {
    /// Loads and starts the driver; one without checkpoints is an error.
    pub fn open(libcuda: &Path) -> Result<Self, String> {
        let library = Library::open(libcuda)?;
        let missing = |name: &str| {
            format!("this driver can't suspend processes: it has no {name} (it needs driver 570 or newer)")
        };
        let call = |name: &std::ffi::CStr| {
            // SAFETY: cuda.h declares these with a process id and a pointer to 64 bytes.
            let function = unsafe { library.function::<AboutProcess>(name) };
            function.ok_or_else(|| missing(&name.to_string_lossy()))
        };
        let calls = [
            call(c"cuCheckpointProcessLock")?,
            call(c"cuCheckpointProcessCheckpoint")?,
            call(c"cuCheckpointProcessRestore")?,
            call(c"cuCheckpointProcessUnlock")?,
        ];
        // SAFETY: the types are those that cuda.h declares for the names.
        let (init, state) = unsafe {
            (
                library.function::<unsafe extern "C" fn(c_uint) -> Return>(c"cuInit"),
                library.function::<unsafe extern "C" fn(c_int, *mut c_int) -> Return>(c"cuCheckpointProcessGetState"),
            )
        };
        let init = init.ok_or_else(|| missing("cuInit"))?;
        let state = state.ok_or_else(|| missing("cuCheckpointProcessGetState"))?;
        // SAFETY: takes flags, of which there are none.
        match unsafe { init(0) } {
            0 => Ok(Self { library, calls, state }),
            code => Err(format!("cuInit: {}", error_name(&library, code))),
        }
    }
}

impl Driver for Checkpoints {
    fn call(&self, call: Call, pid: i32) -> Result<(), u32> {
        let [lock, checkpoint, restore, unlock] = self.calls;
        let (function, timeout_ms) = match call {
            Call::Lock(ms) => (lock, ms),
            Call::Checkpoint => (checkpoint, 0),
            Call::Restore => (restore, 0),
            Call::Unlock => (unlock, 0),
        };
        let arguments = Arguments { timeout_ms, reserved: [0; 15] };
        // SAFETY: reads 64 bytes, which `arguments` has.
        match unsafe { function(pid, &arguments) } {
            0 => Ok(()),
            code => Err(code),
        }
    }

    fn state(&self, pid: i32) -> Result<i32, u32> {
        let mut state = 0;
        // SAFETY: writes one enumeration, which is an int.
        match unsafe { (self.state)(pid, &mut state) } {
            0 => Ok(state),
            code => Err(code),
        }
    }

    fn name(&self, error: u32) -> String {
        error_name(&self.library, error)
    }
}
