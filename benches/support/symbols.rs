//! The bytes of each crate in a binary, read from its symbols.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;

/// The standard library, with the crates that it brings along.
pub const STANDARD: &str = "std, core, alloc";

/// Code without a name that says whose it is: what the C compiler adds, and gaps between functions.
pub const UNKNOWN: &str = "unnamed";

/// Crates that are not in it come with the standard library.
const LOCK: &str = include_str!("../../Cargo.lock");

const SECTION_SYMBOLS: u32 = 2;
const SYMBOL_BYTES: usize = 24;
const SYMBOL_FUNCTION: u8 = 2;

/// The bytes of code of each crate, the most first. They add up to the size of `.text`.
pub fn crates(path: &Path) -> Vec<(String, u64)> {
    let file = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let elf = Elf::read(&file);
    let ours: HashSet<String> = LOCK
        .lines()
        .filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'))
        .map(|name| name.replace('-', "_"))
        .collect();
    let mut bytes: BTreeMap<String, u64> = BTreeMap::new();
    let mut end = elf.text.address;
    for (address, size, name) in elf.functions() {
        // Functions with the same code share it, under several names: the first one gets it.
        let (start, stop) = (address.max(end), (address + size).max(end));
        let owner = match crate_of(name) {
            None => UNKNOWN,
            Some(name) if ours.contains(name) => name,
            Some(_) => STANDARD,
        };
        *bytes.entry(UNKNOWN.to_owned()).or_default() += start - end;
        *bytes.entry(owner.to_owned()).or_default() += stop - start;
        end = stop;
    }
    let text_end = elf.text.address + elf.text.size;
    *bytes.entry(UNKNOWN.to_owned()).or_default() += text_end - end;
    assert_eq!(bytes.values().sum::<u64>(), elf.text.size, "the crates are all of .text");
    let mut crates: Vec<(String, u64)> = bytes.into_iter().collect();
    crates.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    crates
}

/// The crate whose code a mangled name is: that of the function or of its `impl`, not of what it is generic over.
fn crate_of(symbol: &str) -> Option<&str> {
    // Its code in C and assembly.
    if symbol.starts_with("ring_core_") {
        return Some("ring");
    }
    match symbol.strip_prefix("_R") {
        Some(path) => crate_of_path(path),
        None => crate_of_legacy(symbol.strip_prefix("_ZN")?),
    }
}

/// In the grammar of <https://doc.rust-lang.org/rustc/symbol-mangling/v0.html>: the first crate root of the path.
fn crate_of_path(mut path: &str) -> Option<&str> {
    loop {
        let kind = path.chars().next()?;
        path = &path[1..];
        match kind {
            'C' => {
                let name = skip_disambiguator(path);
                let (length, name) = number(name)?;
                return name.strip_prefix('_').unwrap_or(name).get(..length);
            }
            // A nested name: its namespace stands first.
            'N' => path = path.get(1..)?,
            'M' | 'X' => path = skip_disambiguator(path),
            // A generic path, an implementation of a trait, and what types are made of on the way to one that has a name.
            'I' | 'Y' | 'R' | 'Q' | 'P' | 'O' | 'S' | 'A' | 'T' => {}
            'D' | 'L' | 'F' | 'B' => return None,
            // A primitive type: the trait comes next.
            kind if kind.is_ascii_lowercase() => {}
            _ => return None,
        }
    }
}

/// `s_`, `s0_` and so on: which of several of one name.
fn skip_disambiguator(path: &str) -> &str {
    path.strip_prefix('s').and_then(|rest| rest.split_once('_')).map_or(path, |(_, rest)| rest)
}

/// The older mangling: pieces with their lengths, the first of which may be a whole type, as `_<alloc..vec..Vec<T> as ...>`.
fn crate_of_legacy(name: &str) -> Option<&str> {
    let (length, name) = number(name)?;
    let first = name.get(..length)?;
    let Some(mut of_type) = first.strip_prefix("_$LT$") else {
        return is_name(first).then_some(first);
    };
    let wrappers = [
        "$LT$",
        "$RF$",
        "$BP$",
        "$LP$",
        "$u5b$",
        "mut$u20$",
        "const$u20$",
        "dyn$u20$",
        "impl$u20$",
    ];
    while let Some(inner) = wrappers.iter().find_map(|wrapper| of_type.strip_prefix(wrapper)) {
        of_type = inner;
    }
    let of_trait = first.split_once("$u20$as$u20$").map(|(_, rest)| rest);
    // A type without a path is a primitive one or a parameter: then the trait says it.
    [Some(of_type), of_trait]
        .into_iter()
        .flatten()
        .filter_map(|path| path.split_once("..").map(|(first, _)| first))
        .find(|name| is_name(name))
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn number(text: &str) -> Option<(usize, &str)> {
    let end = text.find(|char: char| !char.is_ascii_digit())?;
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// A little-endian ELF file of 64 bits, as far as it matters here.
struct Elf<'a> {
    text: Section,
    /// Which section that is.
    text_number: u16,
    symbols: &'a [u8],
    names: &'a [u8],
}

#[derive(Clone, Copy)]
struct Section {
    name: usize,
    kind: u32,
    address: u64,
    offset: usize,
    size: u64,
    link: usize,
}

impl<'a> Elf<'a> {
    fn read(file: &'a [u8]) -> Elf<'a> {
        assert_eq!(&file[..6], b"\x7fELF\x02\x01", "a little-endian ELF file of 64 bits");
        let table = u64_at(file, 0x28) as usize;
        let size = usize::from(u16_at(file, 0x3a));
        let sections: Vec<Section> = (0..usize::from(u16_at(file, 0x3c)))
            .map(|number| Section::read(&file[table + number * size..]))
            .collect();
        let bytes = |section: &Section| &file[section.offset..][..section.size as usize];
        let names = bytes(&sections[usize::from(u16_at(file, 0x3e))]);
        let text = sections.iter().position(|section| name_at(names, section.name) == ".text");
        let text = text.expect("there is code");
        let symbols = sections.iter().find(|section| section.kind == SECTION_SYMBOLS);
        let symbols = symbols.expect("the binary has symbols: it must not be stripped");
        Elf {
            text: sections[text],
            text_number: text as u16,
            symbols: bytes(symbols),
            names: bytes(&sections[symbols.link]),
        }
    }

    /// Address, size and name of all functions, by their addresses.
    fn functions(&self) -> Vec<(u64, u64, &'a str)> {
        let is_code = |symbol: &&[u8]| {
            symbol[4] & 0xf == SYMBOL_FUNCTION && u16_at(symbol, 6) == self.text_number
        };
        let mut functions: Vec<(u64, u64, &str)> = self
            .symbols
            .chunks_exact(SYMBOL_BYTES)
            .filter(is_code)
            .map(|symbol| {
                let name = name_at(self.names, u32_at(symbol, 0) as usize);
                (u64_at(symbol, 8), u64_at(symbol, 16), name)
            })
            .collect();
        functions.sort_unstable();
        functions
    }
}

impl Section {
    fn read(header: &[u8]) -> Section {
        Section {
            name: u32_at(header, 0) as usize,
            kind: u32_at(header, 4),
            address: u64_at(header, 16),
            offset: u64_at(header, 24) as usize,
            size: u64_at(header, 32),
            link: u32_at(header, 40) as usize,
        }
    }
}

fn name_at(names: &[u8], at: usize) -> &str {
    let name = names[at..].split(|byte| *byte == 0).next().unwrap_or_default();
    std::str::from_utf8(name).unwrap_or_default()
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
