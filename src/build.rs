//! The build script: deflates the texts that the binary carries, which `embedded.rs` inflates.

use std::path::Path;
use std::{env, fs};

use miniz_oxide::deflate::compress_to_vec;

/// The folders that hold texts, and the endings of their names.
const FOLDERS: [&str; 3] = ["src/cli", "src/manual", "src/serve"];
const ENDINGS: [&str; 7] = ["md", "html", "js", "ts", "txt", "service", "socket"];

/// The crate's best and slowest: a tenth of a second for all.
const LEVEL: u8 = 10;

fn main() {
    let out = env::var_os("OUT_DIR").expect("cargo names a folder");
    for folder in FOLDERS {
        println!("cargo::rerun-if-changed={folder}");
        for entry in fs::read_dir(folder).expect("the folder is there") {
            let path = entry.expect("the folder can be read").path();
            let (Some(name), Some(ending)) = (path.file_name(), path.extension()) else { continue };
            if ENDINGS.iter().any(|each| ending == *each) {
                let text = fs::read(&path).expect("the text can be read");
                fs::write(Path::new(&out).join(name), compress_to_vec(&text, LEVEL))
                    .expect("the folder can be written to");
            }
        }
    }
}
