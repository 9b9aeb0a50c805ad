//! Generated code finds what it uses where `crate = …` says.
#![deny(warnings)]

use epicserver::__private as home;
use epicserver::{entity, exclusive, message};
use home::{At, Cx, Ref};

#[message(crate = home)]
pub enum Tree {
    Leaf,
    Node(Vec<Tree>),
}

#[entity(key = u64, crate = home, group = group)]
#[derive(Default)]
pub struct Gardener {
    tree: Option<u32>,
}

fn group(key: &u64) -> u32 {
    (*key >> 32) as u32
}

#[entity(crate = home)]
impl Gardener {
    pub fn one(&mut self, at: At<Self>) -> Tree {
        self.tree = Some(at.key() as u32);
        Tree::Leaf
    }

    pub async fn two(cx: Cx<Self>, other: Ref<Self>) -> Result<Tree, home::wire::CallError> {
        Ok(Tree::Node(vec![other.one().await?, cx.this().one().await?]))
    }

    #[exclusive]
    pub async fn three(&mut self, other: Ref<Self>) -> Result<Tree, home::wire::CallError> {
        other.one().await
    }
}

fn main() {
    use home::EntityType;

    assert_eq!(Gardener::group(&1), Gardener::group(&2));
    assert_ne!(Gardener::group(&1), Gardener::group(&(1 << 32)));
}
