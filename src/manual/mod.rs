//! The manual: chapters that rustdoc renders and `oneloop help TOPIC` prints, from the same bytes.
//!
//! Links between chapters are written `[delivery]`. `links.txt` defines them for rustdoc, before the definitions at the end of each
//! chapter, which serve readers of the files: Markdown takes the first of two definitions. The tables of [`settings`] and [`metrics`]
//! are generated; `tests/readme.rs` compares them with the files.

use crate::embedded::{EmbeddedText, embedded_text};

/// A chapter of the manual.
#[derive(Debug, PartialEq, Eq)]
pub struct Chapter {
    /// The topic in `oneloop help TOPIC`.
    pub name: &'static str,
    text: EmbeddedText,
}

impl Chapter {
    /// Returns the Markdown, without the generated table at the end of two chapters.
    pub fn text(&self) -> String {
        self.text.inflate()
    }

    /// Returns the heading of the text.
    pub fn title(&self) -> String {
        self.text().lines().next().unwrap_or("").trim_start_matches("# ").to_owned()
    }
}

/// Declares each chapter once: as a module for rustdoc, and as a row of [`CHAPTERS`].
macro_rules! chapters {
    ($($name:ident $(with $table:literal)?),*) => {
        $(
            #[doc = include_str!("links.txt")]
            #[doc = include_str!(concat!(stringify!($name), ".md"))]
            $(#[doc = include_str!($table)])?
            pub mod $name {}
        )*

        /// All chapters, in reading order.
        pub static CHAPTERS: &[Chapter] = &[$(Chapter {
            name: stringify!($name),
            text: embedded_text!(concat!(stringify!($name), ".md")),
        }),*];
    };
}

chapters! {
    publishing, laravel, tokens, protocol, sse, client, delivery, streams, presence, upstream, control, redis, operating,
    settings with "settings_table.md", limits, metrics with "metrics_table.md", tls, proxies, deflate, security
}
