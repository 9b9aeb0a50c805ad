use epicserver::prelude::*;

#[message]
pub enum Tree<T> {
    Leaf(T),
    Node(Vec<Tree<T>>),
}

fn main() {}
