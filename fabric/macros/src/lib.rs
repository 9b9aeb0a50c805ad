//! The attribute macros of Epic Server.
//!
//! They read signatures and definitions, and never look into a body: what a user wrote is what the
//! compiler sees, with generated items beside it.
//!
//! # Not here
//! Behaviour: generated code only calls `epicserver-entity`, by way of the façade's hidden module
//! (or another one that `crate = path` names, in the tests of the crates below it).

mod block;
mod definition;
mod hooks;
mod message;
mod methods;
mod options;
mod program;
mod signature;
mod stored;
mod types;

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::quote;
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::{Attribute, DeriveInput, Error, Ident, Result, Token, Visibility};

/// Makes a type an entity, and the methods of its `impl` callable.
///
/// # On a struct or an enum
/// The type can be saved and moved: it gets the derives of the codec. A new entity's state comes
/// from `Default`, or from an `#[activate]` hook.
///
/// | option | means |
/// | --- | --- |
/// | `key = u64` | the type of its key: integers, `String` (the default), `Uuid`, tuples of them |
/// | `name = "Player"` | its name on every node and in stores; without it, the name of the type |
/// | `class = "gpu"` | which nodes may own its entities |
/// | `stateless` | no node owns its entities: a call runs on its caller's shard, on a copy of that shard's own. For what has nothing to keep: a gateway, a computation. It is never saved, and its copies know nothing of each other |
/// | `group = \|key: &(u32, u64)\| key.0` | entities of one group live on one shard |
/// | `saved = "every_turn"` | when its state is saved: see below |
/// | `lag = "5s"` | how old what `write_behind` has not saved may be; 1 s without it |
/// | `version = 3` | the version of its fields, which rises when they change; without it, one more than there are `upgrades` |
/// | `upgrades(PlayerV1, PlayerV2)` | the messages that the type was in the versions before, oldest first. Each turns into the next one, and the last into the type, by `From` |
/// | `writes = 1` | the version that states are written as, by `From<&Player>` of its type, where nothing of a later one is stored: for a program that runs beside the one before it |
/// | `idle = "10m"` | how long an activation stays in memory without calls |
/// | `serde` | `Serialize` and `Deserialize` too |
///
/// Where the node has a store, states are loaded at the first call and saved as `saved` says, and in any case when the
/// activation is collected, goes to another node, or the node stops:
///
/// | `saved` | means |
/// | --- | --- |
/// | `"write_behind"` | the default: what has changed is durable within `lag`; calls do not wait |
/// | `"every_turn"` | each reply waits until the state that its method has seen is durable. Calls that it makes meanwhile, and tells, do not wait |
/// | `"manual"` | by `at.save().await` |
/// | `"never"` | not at all |
///
/// A field with `#[unsaved]` is not stored: it is its type's `Default` after a load.
///
/// # On an `impl`
/// Each `pub` method can be called on a `Ref` of the type, from any node:
///
/// | written | means |
/// | --- | --- |
/// | `pub fn f(&self)`, `pub fn f(&mut self)` | one turn: nothing comes between |
/// | `pub async fn f(cx: Cx<Self>)` | other calls run at each `.await`; state is reached by `cx.with` |
/// | `#[exclusive] pub async fn f(&mut self)` | no other call runs until it returns |
///
/// Each may take `at: At<Self>` right after `self`. Arguments and replies are owned messages. A
/// method that returns `Result<T, E>` gives its caller one `Result`, and asks for
/// `E: From<CallError>`. Private methods, constants and functions without `self` are left alone.
#[proc_macro_attribute]
pub fn entity(options: TokenStream, item: TokenStream) -> TokenStream {
    entity_of(options.into(), item.into()).into()
}

/// Makes a struct or an enum an argument, a reply or an error of methods.
///
/// Each field has to be a message itself, unless `#[rkyv(with = …)]` says how it is written instead.
/// `#[message(serde)]` derives `Serialize` and
/// `Deserialize` too. A type may hold values of itself (`Vec<Self>`); types that hold each other
/// say `#[rkyv(omit_bounds)]` at one of the fields.
///
/// The codec's derives document what they add, but for the named fields of enum variants: where
/// `missing_docs` is denied, give such a variant a struct of its own.
#[proc_macro_attribute]
pub fn message(options: TokenStream, item: TokenStream) -> TokenStream {
    message_of(options.into(), item.into()).into()
}

/// Makes the program of a node: `#[epicserver::main(entities(Player, Barrel))]` on
/// `async fn setup(pool: Pool)`.
#[proc_macro_attribute]
pub fn main(options: TokenStream, item: TokenStream) -> TokenStream {
    let kind = "epicserver::main";
    on_function(kind, item.into(), |setup| program::expand_main(options.into(), &setup)).into()
}

/// Makes a test that runs on a simulated fabric: `#[epicserver::test(entities(Player))]` on
/// `async fn name(pool: Pool)`.
///
/// The function returns nothing, or a `Result` with an error that is `Debug`. Each run has its own time, which
/// passes only when nothing can be done at the present one, so that a test that sleeps for an hour does not
/// take one; the order of things, delays and faults follow from the run's seed alone. The message of a run that fails names
/// its seed.
///
/// | option | means |
/// | --- | --- |
/// | `entities(Player, Barrel)` | what its nodes serve |
/// | `nodes = 3`, `shards = 2` | how many nodes, and shards of each, each from 1 to 16; one without it |
/// | `seeds = 100` | how many runs, each with a seed of its own; the first is drawn anew each time. One without it |
/// | `seed = 7` | the one run of this seed, in place of `seeds`; all else has to be as it was |
/// | `store` | entities are saved as their types say, in a store that all nodes reach; without it nothing is saved |
/// | `faults(crash, leave)` | what goes wrong meanwhile; nothing without it |
///
/// # Faults
/// Each kind that is named happens up to three times in a run, or not at all if there are several, to nodes that
/// are drawn. Nothing happens to the node on which the function itself runs, so there have to be
/// two nodes at least.
///
/// | fault | means |
/// | --- | --- |
/// | `crash` | a node is gone at once, with all that it had in memory, and begins again as another one |
/// | `leave` | a node hands over what it owns, leaves, and comes back |
/// | `partition` | links between nodes are cut for up to 9 s; some nodes may not reach the coordinator either |
/// | `pause` | a node does nothing for 3.5 to 8.5 s, which is longer than its lease |
/// | `delay` | whatever nodes say to each other takes up to 2 s, for up to 9 s |
/// | `store` | the store carries nothing out, or does not say whether it did, for up to 9 s |
///
/// The function begins when all nodes have met. The first fault comes after microseconds or seconds, and the last is over
/// within a minute of the run's time: whoever has waited so long in an entity (`cx.sleep`) and calls again is answered.
/// Until then entities move between nodes and calls end as they do anywhere: with
/// [`NodeLost`](https://docs.rs/epicserver/latest/epicserver/enum.ErrorKind.html) and `ran()` of `Unknown` where a node was
/// lost, or by their deadline (30 s where nothing else is said) while the callee cannot be reached. An entity
/// that was in memory on a lost node, or whose owner changed, begins anew, or with `store` from what was saved.
///
/// When the function has returned, the run goes on until no call waits any more. It fails if one waits for
/// what never comes, and if Epic Server broke its word: an entity active in two places or on
/// a node that does not own it or whose lease is over, a call answered twice, nodes that do not come to terms.
///
/// Runs with faults are ten times as quick where the simulator is optimised: `[profile.dev.package."*"]` with
/// `opt-level = 2` in `Cargo.toml` does that.
#[proc_macro_attribute]
pub fn test(options: TokenStream, item: TokenStream) -> TokenStream {
    let kind = "epicserver::test";
    on_function(kind, item.into(), |setup| program::expand_test(options.into(), setup)).into()
}

/// On a method of an `#[entity] impl`, `pub async fn f(&mut self)`: no other call runs on the
/// entity until it returns.
#[proc_macro_attribute]
pub fn exclusive(options: TokenStream, item: TokenStream) -> TokenStream {
    mark("exclusive", options, item)
}

/// On a function of an `#[entity] impl`, `fn new(at: At<Self>) -> Self`: makes the state of a new
/// activation, in place of `Default`. It may be `async`, and may return a `Result`.
#[proc_macro_attribute]
pub fn activate(options: TokenStream, item: TokenStream) -> TokenStream {
    mark("activate", options, item)
}

/// On a method of an `#[entity] impl`, `fn loaded(&mut self)`: the first turn of an activation whose state comes from the
/// store. Timers that `#[activate]` begins for a new entity are begun here for one that was saved.
#[proc_macro_attribute]
pub fn loaded(options: TokenStream, item: TokenStream) -> TokenStream {
    mark("loaded", options, item)
}

/// On a method of an `#[entity] impl`, `fn wake(&mut self, reminder: Reminder)` (with `at: At<Self>` before it where that is wanted) or
/// `async fn wake(cx: Cx<Self>, reminder: Reminder)`: what is called when a reminder is due that the entity has asked for by
/// `at.remind_at(…)`, `remind_in` or `remind_every`. Nobody else can call it.
#[proc_macro_attribute]
pub fn reminded(options: TokenStream, item: TokenStream) -> TokenStream {
    mark("reminded", options, item)
}

/// On a method of an `#[entity] impl`, `fn leave(&mut self)`: the last turn of an activation that
/// is collected.
#[proc_macro_attribute]
pub fn deactivate(options: TokenStream, item: TokenStream) -> TokenStream {
    mark("deactivate", options, item)
}

/// On a method of an `#[entity] impl`, `fn heap_bytes(&self) -> usize`: what the state holds on
/// the heap, for the memory budget.
#[proc_macro_attribute]
pub fn memory(options: TokenStream, item: TokenStream) -> TokenStream {
    mark("memory", options, item)
}

/// The marks are taken away by `#[entity]`, which tells them that it has seen them; any other one
/// stands outside of it.
fn mark(mark: &str, options: TokenStream, item: TokenStream) -> TokenStream {
    if options.to_string() == block::SEEN {
        return TokenStream::new();
    }
    let text = format!("`#[{mark}]` marks a function in an `impl` with `#[entity]` above it");
    let error = Error::new(proc_macro2::Span::call_site(), text).into_compile_error();
    let item = Tokens::from(item);
    quote!(#item #error).into()
}

/// What an attribute was put on.
enum Item {
    Definition,
    Block,
    Other(proc_macro2::Span, &'static str),
}

fn entity_of(options: Tokens, item: Tokens) -> Tokens {
    let result = kind_of(&item).and_then(|kind| match kind {
        Item::Definition => {
            let item: DeriveInput = syn::parse2(item.clone())?;
            Ok(definition::expand(options, item))
        }
        Item::Block => Ok(methods::expand(options, &syn::parse2(item.clone())?)),
        Item::Other(span, what) => {
            let text = format!("`#[entity]` goes on a struct, an enum or an `impl`, not on {what}");
            Err(Error::new(span, text))
        }
    });
    result.unwrap_or_else(|error| beside(&item, &error))
}

fn message_of(options: Tokens, item: Tokens) -> Tokens {
    let result = kind_of(&item).and_then(|kind| match kind {
        Item::Definition => {
            let item: DeriveInput = syn::parse2(item.clone())?;
            Ok(message::expand(options, item))
        }
        Item::Block => {
            let text = "`#[message]` goes on the definition of the type, not on an `impl`";
            Err(Error::new(proc_macro2::Span::call_site(), text))
        }
        Item::Other(span, what) => {
            let text = format!("`#[message]` goes on a struct or an enum, not on {what}");
            Err(Error::new(span, text))
        }
    });
    result.unwrap_or_else(|error| beside(&item, &error))
}

fn on_function(kind: &str, item: Tokens, expand: impl FnOnce(block::Function) -> Tokens) -> Tokens {
    match syn::parse2(item.clone()) {
        Ok(setup) => expand(setup),
        Err(_) => {
            let text = format!("`#[{kind}]` goes on `async fn name(pool: Pool)`");
            beside(&item, &Error::new(proc_macro2::Span::call_site(), text))
        }
    }
}

/// The item as it is, and the error.
fn beside(item: &Tokens, error: &Error) -> Tokens {
    let error = error.to_compile_error();
    quote!(#item #error)
}

fn kind_of(item: &Tokens) -> Result<Item> {
    let read = |input: ParseStream<'_>| {
        Attribute::parse_outer(input)?;
        input.parse::<Visibility>()?;
        let unsafety: Option<Token![unsafe]> = input.parse()?;
        let is_union = input.peek(Ident) && input.peek2(Ident);
        let kind = if input.peek(Token![struct]) || input.peek(Token![enum]) || is_union {
            Item::Definition
        } else if input.peek(Token![impl]) {
            Item::Block
        } else {
            let span = unsafety.map_or_else(|| input.span(), |token| token.span);
            let word = input
                .call(Ident::parse_any)
                .map_or_else(|_| String::new(), |word| word.to_string());
            Item::Other(span, what(&word))
        };
        input.parse::<Tokens>()?;
        Ok(kind)
    };
    read.parse2(item.clone())
}

fn what(keyword: &str) -> &'static str {
    match keyword {
        "fn" | "async" | "const" | "extern" => "a function",
        "mod" => "a module",
        "trait" => "a trait",
        "type" => "a type alias",
        _other => "this",
    }
}
