//! The README says what the program does.

const README: &str = include_str!("../README.md");

#[test]
fn the_settings_table_is_the_programs_own() {
    let table = oneloop::config::settings_markdown();
    assert!(README.contains(&table), "put this into the README:\n{table}");
}

#[test]
fn the_map_of_the_architecture_page_names_files_that_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let links = README.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let files: Vec<&str> =
        links.filter(|link| !link.contains(':') && !link.starts_with('#')).collect();
    assert!(files.len() > 2, "there are links to files");
    for file in files {
        assert!(root.join(file).exists(), "{file}");
    }
}
