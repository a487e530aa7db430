//! How much memory the process holds.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::param::page_size;

/// Reads the resident memory of this process, again and again: 2 µs each time.
pub struct Resident(Option<File>);

impl Resident {
    /// Where the kernel does not tell, nothing is ever known.
    pub fn new() -> Resident {
        Resident(File::open("/proc/self/statm").ok())
    }

    /// In bytes: the second number of proc(5)'s `statm`, in pages.
    pub fn bytes(&self) -> Option<usize> {
        let mut text = [0; 128];
        let length = self.0.as_ref()?.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(&text[..length]).ok()?;
        let pages: usize = text.split(' ').nth(1)?.parse().ok()?;
        Some(pages * page_size())
    }
}

impl Default for Resident {
    fn default() -> Resident {
        Resident::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_seen() {
        let resident = Resident::new();
        let before = resident.bytes().expect("Linux tells");
        let held = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = resident.bytes().expect("Linux tells");
        assert!(after >= before + (60 << 20), "{before} {after}");
        drop(held);
    }
}
