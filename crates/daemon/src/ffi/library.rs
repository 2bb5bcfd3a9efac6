//! A library opened at run time.
use std::ffi::{CStr, CString, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A library that stays loaded for the life of the process.
#[derive(Debug)]
pub struct Library(*mut c_void);

// SAFETY: the handle is only given to `dlsym`, which may be called from any thread.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Library {
    /// Opens `path`. It is never closed: drivers don't survive that.
    pub fn open(path: &Path) -> Result<Self, String> {
        let text = CString::new(path.as_os_str().as_bytes()).map_err(|_| format!("{path:?} holds a zero byte"))?;
        // SAFETY: `text` is a C string. The library's initialisers run; it is the driver that the operator chose.
        let handle = unsafe { libc::dlopen(text.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            // SAFETY: `dlerror` returns null or a C string that stays until the next call on this thread.
            let error = unsafe {
                let message = libc::dlerror();
                if message.is_null() { None } else { Some(CStr::from_ptr(message).to_string_lossy().into_owned()) }
            };
            return Err(error.unwrap_or_else(|| format!("{} can't be loaded", path.display())));
        }
        Ok(Self(handle))
    }

    /// The function `name` as an `F`.
    ///
    /// # Safety
    /// `F` is a function pointer type, and the library's function has that signature.
    pub unsafe fn function<F: Copy>(&self, name: &CStr) -> Option<F> {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        // SAFETY: the handle is open and `name` is a C string.
        let found = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        if found.is_null() {
            return None;
        }
        // SAFETY: same size; the caller promises the type.
        Some(unsafe { std::mem::transmute_copy::<*mut c_void, F>(&found) })
    }
}
