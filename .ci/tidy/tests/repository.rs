//! The rules of this repository, applied to it.

use epicserver_tidy::tree::{Tree, root};
use epicserver_tidy::{assert_clean, commands, crates, invariants, map, text, unsafety};

fn text_of(tree: &Tree, path: &str) -> String {
    tree.get(path).map(|file| file.text.clone()).unwrap_or_default()
}

#[test]
fn crates_depend_only_on_what_they_may_know() {
    assert_clean(crates::check_dependencies(&crates::read()));
}

#[test]
fn published_crates_say_what_they_are() {
    assert_clean(crates::check_published(&crates::read()));
}

#[test]
fn unsafe_code_stands_where_it_may_and_says_why() {
    assert_clean(unsafety::check(&Tree::read()));
}

#[test]
fn files_are_short_headed_finished_and_clean() {
    assert_clean(text::check(&Tree::read()));
}

#[test]
fn cited_invariants_are_written_down() {
    assert_clean(invariants::check(&Tree::read()));
}

#[test]
fn the_map_names_every_crate_and_nothing_that_is_gone() {
    let tree = Tree::read();
    let mut folders: Vec<String> = tree
        .files
        .iter()
        .filter_map(|file| Some(file.path.split_once('/')?.0.to_owned()))
        .collect();
    folders.dedup();
    assert_clean(map::check(&text_of(&tree, map::PAGE), &crates::read(), &folders, &root()));
}

#[test]
fn the_commands_of_the_readme_are_run() {
    let tree = Tree::read();
    let page = text_of(&tree, commands::PAGE);
    assert!(!page.is_empty(), "{} is missing", commands::PAGE);
    assert_clean(commands::check(&page, &text_of(&tree, commands::GATE)));
}
