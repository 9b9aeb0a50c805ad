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
/// | `idle = "10m"` | how long an activation stays in memory without calls |
/// | `serde` | `Serialize` and `Deserialize` too |
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
/// | option | means |
/// | --- | --- |
/// | `entities(Player, Barrel)` | what its nodes serve |
/// | `nodes = 3`, `shards = 2` | how many nodes, and shards of each; one without it |
/// | `seed = 7` | the run to repeat; a random one without it |
/// | `seeds = 100` | how many runs |
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
