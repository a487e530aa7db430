//! The documents agree with the program and with each other: README, manual, and the READMEs of tests and benches.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use oneloop::manual::CHAPTERS;

const README: &str = include_str!("../README.md");
const README_LINES_MAX: usize = 300;

/// Ends of names that are settings or metrics, wherever a document has them as code.
const NAME_ENDS: [&str; 9] = [
    "_max",
    "_seconds",
    "_per_turn",
    "_file",
    "_secret",
    "_total",
    "_buffer_bytes",
    "_protocol",
    "_per_second",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All documents, by their paths below the root.
fn documents() -> Vec<PathBuf> {
    let mut documents: Vec<PathBuf> = [
        "README.md",
        "benches/README.md",
        "tests/README.md",
        ".github/CONTRIBUTING.md",
        ".github/SECURITY.md",
    ]
    .map(PathBuf::from)
    .into();
    for entry in fs::read_dir(root().join("src/manual")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "md") {
            documents.push(path.strip_prefix(root()).unwrap().to_owned());
        }
    }
    documents
}

/// Markdown without its code blocks.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

/// Code of a document: its spans and blocks.
fn code(text: &str) -> String {
    let blocks = text.split("```").skip(1).step_by(2);
    let prose = prose(text);
    let spans = prose.split('`').skip(1).step_by(2);
    blocks.chain(spans).collect::<Vec<_>>().join("\n")
}

/// Rust sources below `src`.
fn sources() -> String {
    let mut folders = vec![root().join("src")];
    let mut sources = String::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources += &fs::read_to_string(path).unwrap();
            }
        }
    }
    sources
}

/// The first cells of a generated table, without their backticks.
fn first_cells(table: &str) -> BTreeSet<String> {
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| Some(row.split_once('`')?.0.to_owned())).collect()
}

/// The anchor that GitHub and rustdoc give a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|char| char.is_alphanumeric() || " -_".contains(*char));
    kept.collect::<String>().trim().to_lowercase().replace(' ', "-")
}

fn anchors(text: &str) -> BTreeSet<String> {
    let prose = prose(text);
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#'))).collect()
}

/// The targets of links and pictures.
fn targets(text: &str) -> Vec<String> {
    let prose = prose(text);
    let inline = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let pictures = prose.split("src=\"").skip(1).filter_map(|rest| rest.split('"').next());
    let lines = prose.lines().filter(|line| line.starts_with('['));
    let definitions = lines.filter_map(|line| Some(line.split_once("]: ")?.1));
    inline.chain(pictures).chain(definitions).map(str::to_owned).collect()
}

#[test]
fn the_readme_is_short() {
    let lines = README.lines().count();
    assert!(lines <= README_LINES_MAX, "{lines} lines: the manual is in src/manual");
}

#[test]
fn generated_tables_are_the_programs_own() {
    for (chapter, first, table) in [
        ("settings", "setting", oneloop::cli::settings_markdown()),
        ("metrics", "metric", oneloop::cli::metrics_markdown()),
    ] {
        let file = format!("src/manual/{chapter}_table.md");
        let command = format!("cargo run help {chapter} | sed -n '/^| {first} /,$p' > {file}");
        assert!(read(&file) == table, "{file} is old: {command}");
    }
}

#[test]
fn the_readme_names_every_chapter() {
    let targets: BTreeSet<String> = targets(README).into_iter().collect();
    for chapter in CHAPTERS {
        assert!(targets.contains(&format!("src/manual/{}.md", chapter.name)), "{}", chapter.name);
    }
}

#[test]
fn links_point_at_files_and_headings_that_exist() {
    for document in documents() {
        let text = read(&document);
        let folder = root().join(&document).parent().unwrap().to_owned();
        for target in targets(&text) {
            if target.contains("://") {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((&target, ""));
            let linked = if file.is_empty() { root().join(&document) } else { folder.join(file) };
            assert!(linked.exists(), "{}: {target}", document.display());
            if !heading.is_empty() {
                let headings = anchors(&fs::read_to_string(&linked).unwrap());
                assert!(headings.contains(heading), "{}: {target}", document.display());
            }
        }
    }
}

/// rustdoc takes links between chapters from `links.txt`, readers of the files from the end of each chapter.
#[test]
fn links_between_chapters_are_defined_for_both_kinds_of_readers() {
    let for_rustdoc = read("src/manual/links.txt");
    for chapter in CHAPTERS {
        let (name, text) = (chapter.name, chapter.text());
        assert!(for_rustdoc.contains(&format!("[{name}]: self::{name}\n")), "links.txt: {name}");
        for other in CHAPTERS {
            let is_used = prose(&text).contains(&format!("[{}]", other.name));
            let is_defined = text.contains(&format!("\n[{0}]: {0}.md\n", other.name));
            assert_eq!(is_used, is_defined, "{name}.md: [{}]", other.name);
        }
    }
}

#[test]
fn the_protocol_chapter_names_every_close_code() {
    let protocol = read("src/manual/protocol.md");
    let sources = sources();
    let mut codes = BTreeSet::new();
    for constructor in ["Close::plain(", "Close::told("] {
        for rest in sources.split(constructor).skip(1) {
            let digits: String =
                rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
            if digits.len() == 4 {
                codes.insert(digits);
            }
        }
    }
    assert!(codes.len() >= 17, "the codes were found: {codes:?}");
    for code in codes {
        assert!(protocol.contains(&format!("\n| {code} | ")), "{code}");
    }
}

#[test]
fn the_documents_name_settings_and_metrics_that_exist() {
    let settings = first_cells(&read("src/manual/settings_table.md"));
    let metrics = first_cells(&read("src/manual/metrics_table.md"));
    let known: BTreeSet<&str> = settings
        .iter()
        .flat_map(|key| [key.as_str(), key.rsplit('.').next().unwrap()])
        .chain(metrics.iter().map(|name| name.strip_prefix("oneloop_").unwrap()))
        .collect();
    assert!(known.len() > 140, "the names were found");
    for document in documents() {
        let code = code(&read(&document));
        let words = code.split(|char: char| !char.is_ascii_lowercase() && char != '_');
        for word in words.filter(|word| NAME_ENDS.iter().any(|end| word.ends_with(end))) {
            let is_name = !word.starts_with('_') && !word.starts_with("oneloop_");
            let is_known = known.contains(word.strip_prefix("oneloop_").unwrap_or(word));
            // nginx, Prometheus and Linux have such names, too, and a metric has such labels.
            let is_foreign = ["proxy_", "process_", "ip_", "redis_cli", "no_shared_"]
                .iter()
                .any(|start| word.starts_with(start));
            assert!(!is_name || is_known || is_foreign, "{}: {word}", document.display());
        }
    }
}

#[test]
fn the_settings_of_the_readme_exist() {
    let table = README.split("\n| setting | meaning |\n").nth(1).unwrap();
    let table = table.split("\n\n").next().unwrap();
    let known = first_cells(&read("src/manual/settings_table.md"));
    let cells = table.lines().skip(1).map(|line| line.split(" | ").next().unwrap());
    let named: Vec<&str> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    assert!(named.len() >= 10, "{named:?}");
    for name in named {
        assert!(known.contains(name), "{name}");
    }
}

#[test]
fn the_documents_name_benches_that_exist() {
    for document in documents() {
        for rest in read(&document).split("--bench ").skip(1) {
            let name: String = rest.chars().take_while(char::is_ascii_alphanumeric).collect();
            let bench = root().join(format!("benches/{name}.rs"));
            assert!(bench.exists(), "{}: {name}", document.display());
        }
    }
}

#[test]
fn the_readmes_way_to_a_certificate_is_the_manuals() {
    const STARTS: [&str; 6] =
        ["certbot ", "chgrp ", "chmod ", "listen = [", "tls.", "oneloop unit "];
    let manual = read("src/manual/tls.md");
    let start = README.find("\ncertbot certonly").expect("the README has a way to a certificate");
    let block = README[start..].split("```").next().unwrap();
    let lines = block.lines().flat_map(|line| line.split('|'));
    let told: Vec<&str> =
        lines.filter(|line| STARTS.iter().any(|start| line.starts_with(start))).collect();
    assert!(told.len() > STARTS.len(), "{told:?}");
    for line in told {
        assert!(manual.contains(&format!("\n{line}\n")), "{line}");
    }
}
