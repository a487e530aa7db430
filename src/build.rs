//! The build script: deflates the texts that the binary carries, which `embedded.rs` inflates, and leaves tables out of the binary
//! that nothing reads.

use std::path::Path;
use std::{env, fs};

use miniz_oxide::deflate::compress_to_vec;

/// The folders that hold texts, and the endings of their names.
const FOLDERS: [&str; 3] = ["src/cli", "src/manual", "src/serve"];
const ENDINGS: [&str; 7] = ["md", "html", "js", "ts", "txt", "service", "socket"];

/// The crate's best and slowest: a tenth of a second for all.
const LEVEL: u8 = 10;

/// A script for the linker: no tables for unwinding, which would be a twelfth of the binary.
const NO_TABLES: &str = "SECTIONS { /DISCARD/ : { *(.eh_frame .eh_frame.* .gcc_except_table .gcc_except_table.*) } } \
    INSERT AFTER .text;";

fn main() {
    let out = env::var_os("OUT_DIR").expect("cargo names a folder");
    let out = Path::new(&out);
    leave_out_tables(out);
    for folder in FOLDERS {
        println!("cargo::rerun-if-changed={folder}");
        for entry in fs::read_dir(folder).expect("the folder is there") {
            let path = entry.expect("the folder can be read").path();
            let (Some(name), Some(ending)) = (path.file_name(), path.extension()) else { continue };
            if ENDINGS.iter().any(|each| ending == *each) {
                let text = fs::read(&path).expect("the text can be read");
                fs::write(out.join(name), compress_to_vec(&text, LEVEL))
                    .expect("the folder can be written to");
            }
        }
    }
}

/// A panic ends a release at once (`panic = "abort"`), so nothing in it is ever unwound. The start files of musl refer to the tables,
/// and other targets were not tried.
fn leave_out_tables(out: &Path) {
    let variable = |name| env::var(name).unwrap_or_default();
    if variable("PROFILE") != "release" || variable("TARGET") != "x86_64-unknown-linux-gnu" {
        return;
    }
    let script = out.join("no_tables.ld");
    fs::write(&script, NO_TABLES).expect("the folder can be written to");
    println!("cargo::rustc-link-arg-bins=-Wl,--no-eh-frame-hdr");
    println!("cargo::rustc-link-arg-bins=-T{}", script.display());
}
