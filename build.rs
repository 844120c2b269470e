//! The binary is to need nothing but libc. Rust's standard library asks for `libgcc_s.so` to unwind
//! the stack, which a minimal system does not have; the same code lies in the compiler's static
//! `libgcc_eh`. A linker script of that name, found first, sends the linker there.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    if !is("CARGO_CFG_TARGET_OS", "linux") || !is("CARGO_CFG_TARGET_ENV", "gnu") {
        return;
    }
    let Some(out) = env::var_os("OUT_DIR").map(PathBuf::from) else { return };
    if fs::write(out.join("libgcc_s.so"), "INPUT ( -lgcc_eh -lgcc )\n").is_ok() {
        println!("cargo:rustc-link-search=native={}", out.display());
    }
}
