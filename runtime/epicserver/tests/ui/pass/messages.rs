//! Messages of every shape; errors inside them cross; a method with an error of its own gives one
//! `Result`.
#![deny(warnings, missing_debug_implementations, unreachable_pub)]

use epicserver::prelude::*;
use epicserver::__private::{Coded, Message, Method};

/// An error of the user's own.
#[message]
#[derive(Clone, Debug, PartialEq)]
pub enum TradeError {
    /// The call failed.
    Call(CallError),
    /// Not enough.
    Broke {
        /// How much is missing.
        missing: u32,
        /// Why.
        cause: Option<Box<CallError>>,
    },
    /// Nobody there.
    Gone,
}

impl From<CallError> for TradeError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

/// Nothing.
#[message]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Nothing;

/// Parts without names, one left out.
#[derive(Debug, PartialEq)]
#[message]
pub struct Pair(pub u32, pub Vec<Result<u8>>);

/// Parts with names, some conditional.
#[message]
#[derive(Debug)]
pub struct Parts {
    /// Here.
    #[cfg(not(windows))]
    pub here: u32,
    /// Not here.
    #[cfg(windows)]
    pub there: Missing,
    /// A reference.
    pub player: Ref<Player>,
    /// Not a message, but written as one.
    #[rkyv(with = epicserver::__private::rkyv::with::Skip)]
    pub skipped: Option<std::num::NonZeroU8>,
}

/// A tree: it holds itself.
#[message]
#[derive(Clone, Debug, PartialEq)]
pub enum Tree {
    /// An end.
    Leaf(u32),
    /// A branch.
    Node {
        /// Below it.
        below: Vec<Self>,
        /// By name.
        named: std::collections::BTreeMap<String, Tree>,
        /// Alone.
        one: Option<Box<Tree>>,
    },
}

/// Two types that hold each other.
#[message]
#[derive(Clone, Debug, PartialEq)]
pub struct Chicken {
    /// Its eggs.
    pub eggs: Vec<Egg>,
}

/// Two types that hold each other.
#[message]
#[derive(Clone, Debug, PartialEq)]
pub struct Egg {
    /// What will come of it.
    #[rkyv(omit_bounds)]
    pub chicken: Option<Box<Chicken>>,
}

/// A page of anything.
#[message]
#[derive(Debug, PartialEq)]
pub struct Page<T, const N: usize>
where
    T: Clone,
{
    /// What is on it.
    pub items: Vec<T>,
    /// One more.
    pub one: T,
    /// How many.
    pub counts: [u32; N],
}

/// An entity that holds itself and references to itself.
#[entity]
#[derive(Debug, Default)]
pub struct Player {
    friends: Vec<Ref<Self>>,
    copies: Vec<Self>,
}

#[entity]
impl Player {
    /// Trades.
    pub async fn trade(cx: Cx<Self>, with: Ref<Player>) -> Result<Tree, TradeError> {
        let page = with.page(Pair(1, Vec::new())).await?;
        cx.with(|player| player.copies.clear());
        if page.items.is_empty() { Err(TradeError::Gone) } else { Ok(Tree::Leaf(1)) }
    }

    /// A page.
    pub fn page(&self, pair: Pair) -> Page<String, 3> {
        drop(pair);
        drop(self.friends.clone());
        Page { items: Vec::new(), one: String::new(), counts: [0; 3] }
    }

    /// Its own kind of result.
    pub fn own(&self, nothing: Nothing) -> core::result::Result<Nothing, TradeError> {
        Ok(nothing)
    }
}

fn returns<T: Coded + PartialEq + std::fmt::Debug>(value: T) {
    let bytes = value.encode().unwrap();
    assert_eq!(T::decode(&bytes), Ok(value));
    assert!(T::decode(&[1, 2, 3]).is_err() || size_of::<T>() == 0);
}

fn output_of<M: Method>(
    _: fn(&Ref<M::Entity>) -> epicserver::Call<M>,
    outcome: core::result::Result<M::Reply, CallError>,
) -> M::Output {
    M::output(outcome)
}

fn main() {
    use epicserver::__private::wire::{ChainId, ErrorKind, Ran};

    let refused = CallError::refused(ErrorKind::Overloaded, ChainId::NONE);
    let mut error = TradeError::Broke { missing: 1, cause: Some(Box::new(refused)) };
    error.crossed();
    let ran = CallError::new(ErrorKind::Overloaded, Ran::Yes, ChainId::NONE);
    assert_eq!(error, TradeError::Broke { missing: 1, cause: Some(Box::new(ran)) });
    let mut pair = Pair(1, vec![Ok(1), Err(refused)]);
    pair.crossed();
    assert_eq!(pair.1[1], Err(ran));

    returns(error);
    returns(pair);
    returns(Nothing);
    let leaf = Tree::Leaf(1);
    returns(Tree::Node {
        below: vec![leaf.clone()],
        named: [("x".to_owned(), leaf.clone())].into(),
        one: Some(Box::new(leaf)),
    });
    returns(Chicken { eggs: vec![Egg { chicken: Some(Box::new(Chicken { eggs: vec![] })) }] });
    returns(Page { items: vec![1_u32], one: 2, counts: [1, 2] });
    let player = Player { friends: vec![Ref::of("x")], copies: vec![Player::default()] };
    let read = Player::decode(&player.encode().unwrap()).unwrap();
    assert_eq!((read.friends, read.copies.len()), (player.friends, 1));

    let flat = output_of(|player: &Ref<Player>| player.trade(Ref::of("x")), Err(refused));
    assert_eq!(flat, Err(TradeError::Call(refused)));
    let flat = output_of(|player: &Ref<Player>| player.trade(Ref::of("x")), Ok(Err(TradeError::Gone)));
    assert_eq!(flat, Err(TradeError::Gone));
    let flat = output_of(|player: &Ref<Player>| player.own(Nothing), Ok(Ok(Nothing)));
    assert_eq!(flat, Ok(Nothing));
    let plain = output_of(|player: &Ref<Player>| player.page(Pair(1, vec![])), Err(refused));
    assert_eq!(plain, Err(refused));
}
