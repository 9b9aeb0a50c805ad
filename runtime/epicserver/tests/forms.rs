//! What two nodes compare of a method before they call each other by it.

use epicserver::__private::{Form, fields_of};
use epicserver::Message;
use epicserver::prelude::*;

#[message]
#[derive(Debug)]
struct Leaf {
    weight: u32,
    owner: Ref<Forest>,
}

/// Recursive, and generic in its parts.
#[message]
#[derive(Debug)]
enum Tree {
    Leaf(Leaf),
    Node { left: Box<Self>, right: Option<Box<Self>> },
    Gone,
}

#[message]
#[derive(Debug)]
struct Pair<T>(T, T);

#[entity]
#[derive(Default, Debug)]
struct Forest {
    trees: u32,
}

#[entity]
impl Forest {
    pub fn plant(&mut self, tree: Tree) -> u32 {
        self.trees += u32::from(!matches!(tree, Tree::Gone));
        self.trees
    }
}

#[test]
fn a_message_names_its_fields_and_a_recursive_one_ends() {
    let leaf = "Leaf{weight:u32,owner:Ref Forest,}";
    assert_eq!(Form::text_of::<Leaf>(), leaf);
    let tree = format!(
        "Tree{{Leaf{{0:{leaf},}},Node{{left:Box<#0,>,right:Option<Box<#0,>,>,}},Gone{{}},}}"
    );
    assert_eq!(Form::text_of::<Tree>(), tree);
    assert_eq!(Form::text_of::<Pair<u8>>(), "Pair{0:u8,1:u8,}");
}

#[test]
fn generic_messages_of_different_types_differ() {
    assert_ne!(Form::text_of::<Pair<u8>>(), Form::text_of::<Pair<u16>>());
}

/// What `Leaf` and `Tree` are, called otherwise.
mod before {
    use super::*;

    #[message]
    #[derive(Debug)]
    pub(super) struct LeafV1 {
        weight: u32,
        owner: Ref<Forest>,
    }

    #[message]
    #[derive(Debug)]
    pub(super) enum TreeV1 {
        Leaf(LeafV1),
        Node { left: Box<Self>, right: Option<Box<Self>> },
        Gone,
    }
}

#[test]
fn what_is_stored_does_not_say_what_its_types_are_called() {
    let fields = fields_of(<Tree as Message>::form);
    assert_eq!(fields, fields_of(<before::TreeV1 as Message>::form));
    assert!(fields.contains("weight:u32,owner:Ref Forest,"), "{fields}");
}
