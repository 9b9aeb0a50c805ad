//! The signature of a method: how it shares its entity, what it takes, what it gives.
//!
//! # Invariants
//! - **M4** A method that cannot be called is refused with one error, at the place where something
//!   else has to be written, and the error says what.
//!
//! # Not here
//! Hooks, and the code that is generated.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{
    Attribute, Error, FnArg, Ident, Pat, PatType, Receiver, ReceiverKind, Result, ReturnType,
    Safety, Signature, Type, Visibility,
};

use crate::block::Function;
use crate::types::{Unfit, attributes_called, is_named, owned, shown, unfit, without_self};

/// The longest tuple that is a message.
const ARGUMENTS_MAX: usize = 8;

/// Methods that references have already: an entity's method of such a name could not be reached.
const TAKEN: [&str; 7] = ["clone", "clone_from", "eq", "ne", "into", "try_into", "to_owned"];

/// How a method shares its entity with others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// `fn f(&self)`, `fn f(&mut self)`.
    Turn,
    /// `async fn f(cx: Cx<Self>)`.
    Shared,
    /// `#[exclusive] async fn f(&mut self)`.
    Exclusive,
}

/// A method that can be called.
pub(crate) struct Method {
    /// What its calls say of it too: documentation, conditions, deprecation.
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) name: Ident,
    pub(crate) mode: Mode,
    /// It is one turn by `&self`, which changes nothing.
    pub(crate) looks: bool,
    /// Whether it takes `at: At<Self>`.
    pub(crate) takes_at: bool,
    pub(crate) arguments: Vec<Argument>,
    /// Where they are written.
    pub(crate) place: Span,
    /// What its body returns.
    pub(crate) reply: TokenStream,
    /// Whether that is a `Result`, which its caller gets as it is.
    pub(crate) is_result: bool,
}

/// An argument of a call.
pub(crate) struct Argument {
    pub(crate) name: Ident,
    pub(crate) ty: TokenStream,
}

impl Method {
    /// The callable method that `function` of the type `own` is; `None` if it is left alone.
    pub(crate) fn read(function: &Function, own: &TokenStream) -> Result<Option<Self>> {
        let signature = &function.sig;
        if !matches!(function.vis, Visibility::Public(_)) {
            return match function.marker("exclusive") {
                Some(marker) => Err(refuse(
                    marker,
                    "`#[exclusive]` is for methods that others call: write `pub async fn`, or leave it out and call `cx.exclusive(…)` in the caller",
                )),
                None => Ok(None),
            };
        }
        let is_exclusive = function.marker("exclusive").is_some();
        if signature.receiver().is_none() && signature.asyncness.is_none() && !is_exclusive {
            return Ok(None);
        }
        check_qualifiers(signature)?;
        let mode = mode(function)?;
        let looks = match signature.receiver() {
            Some(receiver) => mode == Mode::Turn && !check_receiver(receiver, signature)?,
            None => false,
        };
        let mut typed = typed_inputs(signature);
        if mode == Mode::Shared {
            typed.remove(0);
        }
        let takes_at = typed.first().is_some_and(|argument| is_named(&argument.ty, "At"));
        if takes_at {
            typed.remove(0);
        }
        if takes_at && mode == Mode::Shared {
            let text = "`cx` gives everything that `at` does: leave `at` out";
            return Err(Error::new(second_input(signature), text));
        }
        let arguments = arguments(&signature.ident, &typed, own)?;
        check_reply(&signature.output)?;
        let (reply, is_result) = match &signature.output {
            ReturnType::Default => (quote!(()), false),
            ReturnType::Type(_, ty) => (without_self(ty, own), is_named(ty, "Result")),
        };
        Ok(Some(Self {
            attrs: attributes_called(&function.attrs, &["doc", "cfg", "deprecated"]),
            name: signature.ident.clone(),
            mode,
            looks,
            takes_at,
            arguments,
            place: signature.paren_token.span.join(),
            reply,
            is_result,
        }))
    }
}

fn refuse(place: impl quote::ToTokens, text: impl std::fmt::Display) -> Error {
    Error::new_spanned(place, text)
}

/// The inputs after `self`.
fn typed_inputs(signature: &Signature) -> Vec<&PatType> {
    let typed = signature.inputs.iter().filter_map(|input| match input {
        FnArg::Typed(typed) => Some(typed),
        FnArg::Receiver(_) => None,
    });
    typed.collect()
}

fn second_input(signature: &Signature) -> Span {
    signature.inputs.iter().nth(1).map_or_else(|| signature.ident.span(), Spanned::span)
}

fn check_qualifiers(signature: &Signature) -> Result<()> {
    let name = &signature.ident;
    if let Safety::Unsafe(token) = &signature.safety {
        return Err(refuse(
            token,
            "a method that others call cannot be `unsafe`: a call can promise nothing",
        ));
    }
    if let Some(abi) = &signature.abi {
        return Err(refuse(
            abi,
            "a method that others call is a Rust function: leave `extern` out",
        ));
    }
    if let Some(variadic) = &signature.variadic {
        return Err(refuse(
            variadic,
            "a method that others call has a fixed list of arguments: take a `Vec`",
        ));
    }
    if !signature.generics.params.is_empty() {
        let text = format!(
            "`{name}` has generics, but its name alone says what is called: write a method for each case, with owned types"
        );
        return Err(refuse(&signature.generics, text));
    }
    if let Some(clause) = &signature.generics.where_clause {
        return Err(refuse(
            clause,
            "a method that others call has no conditions: leave `where` out",
        ));
    }
    if TAKEN.contains(&name.unraw().to_string().as_str()) {
        let text = format!(
            "a `Ref` has a method `{name}` of its own, which would be called instead: choose another name"
        );
        return Err(refuse(name, text));
    }
    Ok(())
}

/// `enter_level(cx: Cx<Self>, …)`, for advice.
fn shared_form(signature: &Signature) -> String {
    let name = &signature.ident;
    let more = signature.inputs.len() > usize::from(signature.receiver().is_some());
    format!("pub async fn {name}(cx: Cx<Self>{})", if more { ", …" } else { "" })
}

fn mode(function: &Function) -> Result<Mode> {
    let signature = &function.sig;
    let shared = shared_form(signature);
    let exclusive = function.marker("exclusive");
    if let Some(receiver) = signature.receiver() {
        let by_mut = check_receiver(receiver, signature)?;
        return match (&signature.asyncness, exclusive) {
            (None, None) => Ok(Mode::Turn),
            (None, Some(marker)) => Err(refuse(
                marker,
                "a method that is not `async` is one turn, in which nothing else runs anyway: leave `#[exclusive]` out",
            )),
            (Some(_), Some(_)) if by_mut => Ok(Mode::Exclusive),
            (Some(_), Some(_)) => Err(refuse(
                receiver,
                "an `#[exclusive]` method has the entity to itself: write `&mut self`",
            )),
            (Some(_), None) => {
                let text = format!(
                    "`{}` in an `async fn` would have to keep every other call out until it returns: write `{shared}` to let others run at each `.await`, or `#[exclusive]` and `&mut self` to keep them out",
                    shown(receiver)
                );
                Err(refuse(receiver, text))
            }
        };
    }
    if signature.asyncness.is_none() {
        let text = "`#[exclusive]` is for methods: write `pub async fn` with `&mut self`";
        return Err(Error::new(signature.fn_token.span, text));
    }
    let first_is_cx = match signature.inputs.first() {
        Some(FnArg::Typed(first)) => is_named(&first.ty, "Cx"),
        _other => false,
    };
    match exclusive {
        None if first_is_cx => Ok(Mode::Shared),
        Some(marker) if first_is_cx => Err(refuse(
            marker,
            "an `#[exclusive]` method has the entity to itself: write `&mut self` in place of `cx: Cx<Self>`, or leave `#[exclusive]` out and call `cx.exclusive(…)` in the body",
        )),
        _other => {
            let text = format!(
                "a `pub async fn` is called on an entity: write `{shared}`, or leave `pub` out"
            );
            Err(Error::new(place_of_first(signature), text))
        }
    }
}

fn place_of_first(signature: &Signature) -> Span {
    signature.inputs.first().map_or_else(|| signature.ident.span(), Spanned::span)
}

/// Whether it is `&mut self`.
fn check_receiver(receiver: &Receiver, signature: &Signature) -> Result<bool> {
    if let ReceiverKind::Reference(_, None, mutability) = &receiver.kind {
        return Ok(mutability.is_some());
    }
    let instead = if signature.asyncness.is_some() {
        format!("`{}`, or `#[exclusive]` and `&mut self`", shared_form(signature))
    } else {
        "`&self` or `&mut self`".to_owned()
    };
    let text = format!("a call borrows its entity, and cannot take it away: write {instead}");
    Err(refuse(receiver, text))
}

fn arguments(method: &Ident, typed: &[&PatType], own: &TokenStream) -> Result<Vec<Argument>> {
    let mut arguments: Vec<Argument> = Vec::new();
    for argument in typed {
        check_argument(argument)?;
        let taken = |name: &Ident| arguments.iter().any(|other| other.name == *name);
        let fallback = format_ident!("argument{}", arguments.len(), span = argument.pat.span());
        let name = name_of(&argument.pat).filter(|name| !taken(name)).unwrap_or(fallback);
        if arguments.len() == ARGUMENTS_MAX {
            let text = format!(
                "`{method}` takes more than {ARGUMENTS_MAX} arguments: put some of them into a struct with `#[message]`"
            );
            return Err(refuse(argument, text));
        }
        arguments.push(Argument { name, ty: without_self(&argument.ty, own) });
    }
    Ok(arguments)
}

/// What the argument is called in the generated call.
fn name_of(pattern: &Pat) -> Option<Ident> {
    let Pat::Ident(pattern) = pattern else { return None };
    let name = &pattern.ident;
    let text = name.to_string();
    let Some(stripped) = text.strip_prefix('_') else { return Some(name.clone()) };
    let stripped = syn::parse_str::<Ident>(stripped.trim_start_matches('_')).ok()?;
    Some(Ident::new(&stripped.to_string(), name.span()))
}

fn check_argument(argument: &PatType) -> Result<()> {
    if let Some(cfg) = attributes_called(&argument.attrs, &["cfg", "cfg_attr"]).first() {
        return Err(refuse(
            cfg,
            "an argument cannot be conditional: every node has to read the call alike",
        ));
    }
    let ty = &argument.ty;
    if is_named(ty, "At") {
        return Err(refuse(argument, "`at: At<Self>` is written first, right after `self`"));
    }
    if is_named(ty, "Cx") {
        return Err(refuse(
            argument,
            "`cx: Cx<Self>` is written in place of `self`, first and in an `async fn`",
        ));
    }
    match unfit(ty) {
        None => Ok(()),
        Some(Unfit::Reference(reference)) => {
            let text = format!(
                "an argument cannot be borrowed, since calls travel: write `{}`",
                owned(reference)
            );
            Err(refuse(reference, text))
        }
        Some(Unfit::Lifetime(lifetime)) => Err(refuse(
            lifetime,
            "an argument cannot be borrowed, since calls travel: write a type that owns what it holds",
        )),
        Some(Unfit::ImplTrait(it)) => Err(refuse(
            it,
            "the type of an argument has to be known, since calls are written and read: write a concrete type",
        )),
    }
}

fn check_reply(output: &ReturnType) -> Result<()> {
    let ReturnType::Type(_, ty) = output else { return Ok(()) };
    if let Type::Never(never) = &**ty {
        return Err(refuse(never, "a method that others call has to return"));
    }
    match unfit(ty) {
        None => Ok(()),
        Some(Unfit::Reference(reference)) => {
            let text = format!(
                "a reply cannot be borrowed from the entity, since replies travel: write `{}`",
                owned(reference)
            );
            Err(refuse(reference, text))
        }
        Some(Unfit::Lifetime(lifetime)) => Err(refuse(
            lifetime,
            "a reply cannot be borrowed from the entity, since replies travel: write a type that owns what it holds",
        )),
        Some(Unfit::ImplTrait(it)) => Err(refuse(
            it,
            "the type of a reply has to be known, since replies are written and read: write a concrete type",
        )),
    }
}
