//! The resident memory of the process.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::param::page_size;

/// A file that tells the resident memory: 2 µs for each look.
pub struct Resident(Option<File>);

impl Resident {
    /// Opens proc(5)'s `statm`. Without `/proc` nothing is known.
    pub fn new() -> Resident {
        Resident(File::open("/proc/self/statm").ok())
    }

    /// Resident bytes: the second number of the file, in pages.
    pub fn bytes(&self) -> Option<usize> {
        let mut text = [0; 128];
        let length = self.0.as_ref()?.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(&text[..length]).ok()?;
        let pages: usize = text.split(' ').nth(1)?.parse().ok()?;
        Some(pages * page_size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_memory_is_seen() {
        let resident = Resident::new();
        let before = resident.bytes().expect("Linux tells");
        let held = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = resident.bytes().expect("Linux tells");
        assert!(after >= before + (60 << 20), "{before} {after}");
        drop(held);
    }
}
