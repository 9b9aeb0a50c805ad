//! The listing that is built is the one that is shown.

use std::fs;

use epicserver_tidy::tree::root;
use epicserver_tidy::{assert_clean, listing};

fn built() -> String {
    fs::read_to_string(root().join(listing::BUILT)).expect("the built listing can be read")
}

#[test]
fn the_listing_of_the_readme_is_the_one_that_is_built() {
    let page = fs::read_to_string(root().join("README.md")).unwrap_or_default();
    assert_clean(
        listing::compare(&built(), "README.md", listing::find(&page, "")).into_iter().collect(),
    );
}

/// Where the design lies beside the repository, it has the last word; a checkout alone has nothing to compare.
#[test]
fn the_listing_of_the_design_is_the_one_that_is_built() {
    if let Ok(page) = fs::read_to_string(root().join("../shared/design.md")) {
        let shown = listing::find(&page, "## 2.");
        assert_clean(listing::compare(&built(), "the design", shown).into_iter().collect());
    }
}
