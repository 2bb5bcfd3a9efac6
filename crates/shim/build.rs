//! How the stand-in is linked: under the driver's own SONAME, with nothing left undefined (a reachable panic is an
//! undefined symbol), and for every glibc since 2.17.
fn main() {
    for argument in [
        "-nostartfiles",
        "-Wl,-soname,libcuda.so.1",
        "-Wl,-z,defs",
        "-Wl,-z,now",
        "-Wl,-z,relro",
        "-Wl,--gc-sections",
        "-Wl,--build-id=sha1",
        // Before glibc 2.34 dlopen and dlsym live there; since then it is an empty shell. Named by file, because the
        // linker would take the empty static archive otherwise.
        "-Wl,--no-as-needed",
        "-l:libdl.so.2",
    ] {
        println!("cargo:rustc-cdylib-link-arg={argument}");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
