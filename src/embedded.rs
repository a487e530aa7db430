//! Texts that the binary carries deflated: the manual, what commands print, and what the server gives to browsers.
//!
//! They are 160 KB of the sources and 68 KB of the binary. A page that is asked for often is inflated once, by its owner.

use miniz_oxide::inflate::decompress_to_vec;

/// A text, as `build.rs` deflated it.
#[derive(Debug, PartialEq, Eq)]
pub struct EmbeddedText(pub(crate) &'static [u8]);

impl EmbeddedText {
    /// Inflates the text.
    pub fn inflate(&self) -> String {
        let text = decompress_to_vec(self.0).expect("the build script deflated it");
        String::from_utf8(text).expect("the sources are UTF-8")
    }
}

/// The [`EmbeddedText`] of a file in `src/cli`, `src/manual` or `src/serve`, by its name.
macro_rules! embedded_text {
    ($file:expr) => {
        $crate::embedded::EmbeddedText(include_bytes!(concat!(env!("OUT_DIR"), "/", $file)))
    };
}
pub(crate) use embedded_text;
