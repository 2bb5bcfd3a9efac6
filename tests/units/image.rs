//! What the stand-in reads from images of code, which are made here by hand.
// UNSAFETY: the scan's sources are included; it takes what the driver takes, a bare pointer.
#![allow(unsafe_code)]

#[allow(dead_code)]
#[path = "../../crates/shim/src/image.rs"]
mod image;

use proptest::prelude::*;

const HEADER: &str = ".version 8.0\n.target sm_90\n.address_size 64\n";

fn bytes_of(image: &[u8]) -> u64 {
    let padded = [image, &[0; 4096]].concat();
    // SAFETY: an image that tells its length, as every caller makes one; behind it are zeros.
    unsafe { image::static_bytes(padded.as_ptr()) }
}

fn ptx(text: &str) -> u64 {
    bytes_of(format!("{text}\0").as_bytes())
}

#[test]
fn nothing_is_nothing() {
    // SAFETY: a null pointer is answered without being read.
    assert_eq!(unsafe { image::static_bytes(std::ptr::null()) }, 0);
    for text in ["", "\n", "no image at all", HEADER, ".global", ".global .b8", ".global .b8 ;", "[[[]]]", "\x7fEL"] {
        assert_eq!(ptx(text), 0, "{text:?}");
    }
}

#[test]
fn globals_of_ptx_are_summed() {
    for (declaration, bytes) in [
        (".global .u32 a;", 4),
        (".visible .global .align 16 .b8 a[67108864];", 67_108_864),
        (".global .b8 a[1000];\n.global .b8 b[24];", 1024),
        (".const .align 4 .b32 a[16];", 64),
        (".global .f64 a[10];", 80),
        (".global .align 2 .b16 a[10];", 20),
        (".global .v4 .f32 a[8];", 128),
        (".global .v2 .u64 a;", 16),
        (".global .s32 a[3][5][7];", 420),
        (".weak .global .align 8 .u64 a[2] = {1, 2};", 16),
        (".global .align 1 .b8 a[6] = {104, 101, 108, 108, 111, 0};\n.global .b8 b[1048576];", 1_048_582),
        (".global .u32 a = 7;", 4),
        (".global .attribute(.managed) .align 4 .b8 a[4096];", 4096),
        (".global .align 16 .b128 a[3];", 48),
        (".global .f16x2 a[3];", 12),
        (".global .b8 a [1000], b [3] [5] ;", 1015),
        (".global .u32 a, b[2] = {1, 2}, c[4];", 28),
        (".global .u64 a = generic(b) + 4, c;", 16),
        (".global .attribute(.unified(1, 2)) .b8 a[0x10];", 16),
        ("/* .global .b8 a[7]; */ .global .b8 a[5]; // .global .b8 b[3];", 5),
        (".file 1 \"; .global .b8 a[9];\"\n.global .b8 a[5];", 5),
        // What is no declaration.
        (".visible .entry k(.param .u64 .ptr .global .align 4 a, .param .u32 b) { ret; }", 0),
        (".shared .align 16 .b8 a[4096];", 0),
        (".visible .entry k() { ld.global.u32 r, [a]; st.global.u32 [a], 1; cvta.to.global.u64 x, y; ret; }", 0),
        ("// .globl k\n.visible .entry k() { ret; }", 0),
    ] {
        assert_eq!(ptx(&format!("{HEADER}{declaration}")), bytes, "{declaration}");
        let both = format!("{HEADER}{declaration}\n.visible .entry other() {{ ret; }}\n.global .b8 last[512];\n");
        assert_eq!(ptx(&both), bytes + 512, "{declaration}");
        let windows = both.replace('\n', "\r\n\t");
        assert_eq!(ptx(&windows), bytes + 512, "{declaration}");
    }
}

/// An array without a size has that of its initialiser, which is small or it would not be text: at least one element.
#[test]
fn an_array_without_a_size_counts() {
    assert!(ptx(&format!("{HEADER}.global .u32 a[] = {{1, 2, 3}};")) >= 4);
}

/// A parameter that points to global memory is a pointer.
#[test]
fn parameters_are_small() {
    for parameters in [
        ".param .u64 .ptr .global .align 16 a",
        ".param .u64 .ptr .global .align 16 a, .param .u32 n, .param .u64 .ptr .const .align 4 c",
        ".param .u64 .ptr .global a, .param .align 8 .b8 big[4096]",
    ] {
        let text = format!("{HEADER}.visible .entry k({parameters}) {{ ret; }}\n");
        // Parameters lie in no memory that is taken when the module is loaded.
        assert!(ptx(&text) <= 4096, "{parameters}: {}", ptx(&text));
    }
}

#[test]
fn sizes_beyond_all_measure_do_not_wrap() {
    for size in ["18446744073709551615", "9223372036854775808", "4294967296][4294967296][4294967296"] {
        let text = format!("{HEADER}.global .v4 .b64 a[{size}];\n.global .b64 b[{size}];");
        assert_eq!(ptx(&text), u64::MAX, "{size}");
    }
    // No number at all: the driver will refuse it. It must not be read as something else.
    ptx(&format!("{HEADER}.global .b8 a[99999999999999999999999999];"));
    ptx(&format!("{HEADER}.global .b8 a[WARP_SZ];"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    #[test]
    fn declarations_in_any_order_and_spacing(list in proptest::collection::vec(declaration(), 0..20), gap in "[ \t\n]{1,3}") {
        let mut text = format!(".version 8.0{gap}\n.target sm_90a\n.address_size 64\n");
        let mut sum = 0;
        for (words, bytes) in &list {
            text.push_str(&words.join(&gap));
            text.push_str(";\n");
            sum += bytes;
        }
        prop_assert_eq!(ptx(&text), sum, "{}", text);
    }

    #[test]
    fn any_text_is_read_to_its_end(text in "[^\0]{0,300}") {
        ptx(&text);
    }

    #[test]
    fn text_of_its_words_is_read_to_its_end(words in proptest::collection::vec(word(), 0..60)) {
        ptx(&words.join(" "));
    }

    #[test]
    fn sections_that_are_loaded_count(sections in proptest::collection::vec((0u64..8, 0u64..1 << 40), 0..40)) {
        let sum = sections.iter().filter(|(flags, _)| flags & 2 != 0).map(|(_, size)| size).sum::<u64>();
        prop_assert_eq!(bytes_of(&elf(&sections)), sum);
        let other = [(2u64, 5u64)];
        prop_assert_eq!(bytes_of(&container(&[elf(&other), elf(&sections)])), sum.max(5));
    }
}

fn word() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        ".global", ".const", ".align", ".b8", ".u64", ".v4", "4", "a[", "[12]", "]", "a[3]", "=", "{", "}", ";", ",",
        "(", ")", ".param", ".ptr", "//", "/*", "*/", "\"", "\n", ".b", ".64",
    ])
}

/// A declaration's words, and the bytes that it takes.
fn declaration() -> impl Strategy<Value = (Vec<String>, u64)> {
    let types = proptest::sample::select(vec![
        ("b8", 1u64),
        ("u8", 1),
        ("s8", 1),
        ("b16", 2),
        ("f16", 2),
        ("u16", 2),
        ("b32", 4),
        ("f32", 4),
        ("s32", 4),
        ("b64", 8),
        ("f64", 8),
        ("u64", 8),
    ]);
    let linkage = proptest::sample::select(vec![None, Some(".visible"), Some(".weak")]);
    let vector = proptest::sample::select(vec![(None, 1u64), (Some(".v2"), 2), (Some(".v4"), 4)]);
    let align = proptest::option::of(0u32..8);
    let dimensions = proptest::collection::vec(1u64..5000, 0..3);
    (linkage, any::<bool>(), align, vector, types, dimensions, "[a-zA-Z_$][a-zA-Z0-9_$]{0,12}").prop_map(
        |(linkage, constant, align, (vector, lanes), (name, size), dimensions, symbol)| {
            let mut words: Vec<String> = linkage.into_iter().map(String::from).collect();
            words.push(if constant { ".const" } else { ".global" }.into());
            if let Some(align) = align {
                words.push(".align".into());
                words.push((1 << align).to_string());
            }
            words.extend(vector.map(String::from));
            words.push(format!(".{name}"));
            let mut brackets = symbol;
            for n in &dimensions {
                brackets.push_str(&format!("[{n}]"));
            }
            words.push(brackets);
            (words, lanes * size * dimensions.iter().product::<u64>())
        },
    )
}

/// A 64-bit ELF file with these sections: flags and size.
fn elf(sections: &[(u64, u64)]) -> Vec<u8> {
    let mut file = vec![0u8; 64];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    file[0x28..0x30].copy_from_slice(&64u64.to_le_bytes());
    file[0x3a..0x3c].copy_from_slice(&64u16.to_le_bytes());
    file[0x3c..0x3e].copy_from_slice(&(sections.len() as u16).to_le_bytes());
    for (flags, size) in sections {
        let mut header = [0u8; 64];
        header[8..16].copy_from_slice(&flags.to_le_bytes());
        header[0x20..0x28].copy_from_slice(&size.to_le_bytes());
        file.extend(header);
    }
    file
}

/// A container of these images, each with a header of 64 bytes.
fn container(images: &[Vec<u8>]) -> Vec<u8> {
    let mut body = Vec::new();
    for image in images {
        let mut header = [0u8; 64];
        header[..2].copy_from_slice(&2u16.to_le_bytes());
        header[4..8].copy_from_slice(&64u32.to_le_bytes());
        header[8..16].copy_from_slice(&(image.len() as u64).to_le_bytes());
        body.extend(header);
        body.extend(image);
    }
    let mut file = Vec::new();
    file.extend(0xba55_ed50u32.to_le_bytes());
    file.extend(1u16.to_le_bytes());
    file.extend(16u16.to_le_bytes());
    file.extend((body.len() as u64).to_le_bytes());
    file.extend(body);
    file
}

#[test]
fn the_largest_image_of_a_container_counts() {
    let small = elf(&[(2, 1000), (6, 24), (0, 1 << 30)]);
    let large = elf(&[(3, 1 << 20)]);
    assert_eq!(bytes_of(&small), 1024);
    assert_eq!(bytes_of(&container(&[small.clone(), large.clone()])), 1 << 20);
    assert_eq!(bytes_of(&container(&[large.clone(), small.clone()])), 1 << 20);
    // A compressed image, and text: can't be read, and hide nothing that comes after them.
    let compressed = vec![0x28; 300];
    assert_eq!(bytes_of(&container(&[compressed, small.clone()])), 1024);
    assert_eq!(bytes_of(&container(&[])), 0);
    // What the runtime's registration hands over: a wrapper that points to the container.
    let inner = [container(&[small]), vec![0; 64]].concat();
    let mut wrapper = Vec::new();
    wrapper.extend(0x4662_43b1u32.to_le_bytes());
    wrapper.extend(1u32.to_le_bytes());
    wrapper.extend((inner.as_ptr() as u64).to_le_bytes());
    wrapper.extend(0u64.to_le_bytes());
    assert_eq!(bytes_of(&wrapper), 1024);
    wrapper[8..16].fill(0);
    assert_eq!(bytes_of(&wrapper), 0);
}

/// A file may tell anything of itself; nothing beyond it is read.
#[test]
fn files_are_read_within_their_length() {
    let of = |file: &[u8]| {
        let with_zero = [file, &[0]].concat();
        // SAFETY: so many bytes, and a zero.
        unsafe { image::static_bytes_within(with_zero.as_ptr(), file.len()) }
    };
    let whole = elf(&[(2, 1000), (2, 24)]);
    assert_eq!(of(&whole), 1024);
    assert_eq!(of(&container(std::slice::from_ref(&whole))), 1024);
    assert_eq!(of(b".global .b8 a[77];"), 77);
    assert_eq!(of(b""), 0);
    for length in 0..whole.len() {
        assert!(of(&whole[..length]) <= 1024, "{length}");
    }
    let mut far = whole;
    far[0x28..0x30].copy_from_slice(&(u64::MAX - 9).to_le_bytes());
    assert_eq!(of(&far), 0);
    // A pointer in a file points nowhere.
    let mut wrapper = 0x4662_43b1u32.to_le_bytes().to_vec();
    wrapper.extend([1; 20]);
    assert_eq!(of(&wrapper), 0);
}

#[test]
fn sections_beyond_all_measure_do_not_wrap() {
    assert_eq!(bytes_of(&elf(&[(2, u64::MAX), (2, u64::MAX)])), u64::MAX);
}

/// Headers that say little: cut-off entries, no entries, another class of file.
#[test]
fn poor_headers_count_as_nothing() {
    let mut other_class = elf(&[(2, 4096)]);
    other_class[4] = 1;
    assert_eq!(bytes_of(&other_class), 0);
    assert_eq!(bytes_of(&elf(&[])), 0);
    let whole = container(&[elf(&[(2, 4096)])]);
    for (at, value) in [(8, 0u64), (8, 15), (16 + 8, 0), (16 + 8, 63)] {
        let mut poor = whole.clone();
        poor[at..at + 8].copy_from_slice(&value.to_le_bytes());
        assert_eq!(bytes_of(&poor), 0, "{value} at {at}");
    }
    let mut no_skip = whole.clone();
    no_skip[20..24].fill(0);
    assert_eq!(bytes_of(&no_skip), 0);
    // An entry that claims more than the address space ends the walk.
    let mut endless = whole;
    endless[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(bytes_of(&endless) <= 4096);
}
