//! The hooks of an entity: `#[activate]`, `#[loaded]`, `#[deactivate]`, `#[memory]`; and what `#[reminded]` marks.
//!
//! # Not here
//! When a node calls them.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{
    Attribute, Error, FnArg, Ident, Meta, Path, ReceiverKind, Result, ReturnType, Signature,
};

use crate::block::Function;
use crate::options::Errors;
use crate::types::{attributes_called, is_named};

/// The hooks that a block has.
#[derive(Default)]
pub(crate) struct Hooks<'a> {
    activate: Option<Hook<'a>>,
    loaded: Option<Hook<'a>>,
    deactivate: Option<Hook<'a>>,
    memory: Option<Hook<'a>>,
    reminded: Option<Hook<'a>>,
}

struct Hook<'a> {
    function: &'a Function,
    takes_at: bool,
}

impl<'a> Hooks<'a> {
    /// Whether `function` says that it is a hook; it is kept if it has the form of one.
    pub(crate) fn take(&mut self, function: &'a Function, errors: &mut Errors) -> bool {
        let hooks = [
            ("activate", &mut self.activate, activate_form as Form),
            ("loaded", &mut self.loaded, deactivate_form),
            ("deactivate", &mut self.deactivate, deactivate_form),
            ("memory", &mut self.memory, memory_form),
            ("reminded", &mut self.reminded, reminded_form),
        ];
        let mut is_hook = false;
        for (name, place, form) in hooks {
            let Some(marker) = function.marker(name) else { continue };
            is_hook = true;
            let result = hook(function, marker, place.is_some(), form);
            if let Some(hook) = errors.keep(result) {
                *place = Some(hook);
            }
        }
        is_hook
    }

    /// The hook for reminders: its name, whether it is `async` and takes `cx`, whether it takes `at`; and its conditions.
    pub(crate) fn reminded(&self) -> Option<(&Ident, bool, bool, Vec<Attribute>)> {
        let hook = self.reminded.as_ref()?;
        let signature = &hook.function.sig;
        Some((&signature.ident, signature.asyncness.is_some(), hook.takes_at, hook.cfgs()))
    }

    /// The functions of `impl Entity` for them.
    pub(crate) fn functions(&self, own: &TokenStream, home: &Path) -> TokenStream {
        let activate = self.activate_function(own, home);
        let turns = [("loaded", &self.loaded), ("deactivate", &self.deactivate)];
        let turns = turns.into_iter().filter_map(|(kind, hook)| {
            let hook = hook.as_ref()?;
            let (cfgs, name) = (hook.cfgs(), &hook.function.sig.ident);
            let (kind, at) = (format_ident!("{kind}"), hook.takes_at.then(|| quote!(at)));
            Some(quote! {
                #(#cfgs)*
                #[allow(unused_variables)]
                fn #kind(&mut self, at: #home::At<Self>) {
                    <#own>::#name(self, #at)
                }
            })
        });
        let memory = self.memory.as_ref().map(|hook| {
            let (cfgs, name) = (hook.cfgs(), &hook.function.sig.ident);
            quote! {
                #(#cfgs)*
                fn heap_bytes(&self) -> usize {
                    <#own>::#name(self)
                }
            }
        });
        quote!(#activate #(#turns)* #memory)
    }

    fn activate_function(&self, own: &TokenStream, home: &Path) -> TokenStream {
        let span = own.span();
        let new_state = quote_spanned!(span=> <#own as #home::NewState>::new_state());
        let default = quote! {
            fn activate(_: #home::At<Self>) -> #home::Activation<Self> {
                #home::Activation::Ready(#new_state)
            }
        };
        let Some(hook) = &self.activate else { return default };
        let cfgs = hook.cfgs();
        // Where the hook's condition leaves it out, the state comes from `Default`.
        let conditions: Vec<TokenStream> = cfgs.iter().filter_map(condition).collect();
        let default =
            (!conditions.is_empty()).then(|| quote!(#[cfg(not(all(#(#conditions),*)))] #default));
        let body = hook.activation(own, home);
        quote! {
            #(#cfgs)*
            const MAKES: bool = true;

            #(#cfgs)*
            #[allow(unused_variables)]
            fn activate(at: #home::At<Self>) -> #home::Activation<Self> {
                #body
            }
            #default
        }
    }
}

fn condition(cfg: &Attribute) -> Option<TokenStream> {
    let Meta::List(list) = &cfg.meta else { return None };
    Some(list.tokens.clone())
}

impl Hook<'_> {
    fn cfgs(&self) -> Vec<Attribute> {
        attributes_called(&self.function.attrs, &["cfg"])
    }

    /// The body of `activate`.
    fn activation(&self, own: &TokenStream, home: &Path) -> TokenStream {
        let signature = &self.function.sig;
        let (name, is_async) = (&signature.ident, signature.asyncness.is_some());
        let at = self.takes_at.then(|| quote!(at));
        let wait = is_async.then(|| quote!(.await));
        let state = quote!(<#own>::#name(#at) #wait);
        let is_result = returns_result(signature);
        let ready = quote!(#home::Activation::Ready);
        match (is_async, is_result) {
            (false, false) => quote!(#ready(#state)),
            (false, true) => quote! {
                match #state {
                    ::core::result::Result::Ok(state) => #ready(state),
                    ::core::result::Result::Err(_) => #home::Activation::Failed(#home::ActivationFailed),
                }
            },
            (true, _) => {
                let result = if is_result {
                    quote!(::core::result::Result::map_err(#state, |_| #home::ActivationFailed))
                } else {
                    quote!(::core::result::Result::Ok(#state))
                };
                quote!(#home::Activation::Running(::std::boxed::Box::pin(async move { #result })))
            }
        }
    }
}

fn returns_result(signature: &Signature) -> bool {
    match &signature.output {
        ReturnType::Type(_, ty) => is_named(ty, "Result"),
        ReturnType::Default => false,
    }
}

/// Whether the signature is the hook's; if so, whether it takes `at`.
type Form = fn(&Signature) -> Option<bool>;

fn hook<'a>(
    function: &'a Function,
    marker: &Attribute,
    again: bool,
    form: Form,
) -> Result<Hook<'a>> {
    let name = marker.path().segments.last().map(|last| last.ident.to_string()).unwrap_or_default();
    if again {
        return Err(Error::new_spanned(marker, format!("an entity has one `#[{name}]` hook")));
    }
    if let [_, second, ..] = function.markers.as_slice() {
        return Err(Error::new_spanned(
            second,
            "a hook is one thing only: leave one of the marks out",
        ));
    }
    let signature = &function.sig;
    let plain = signature.generics.params.is_empty()
        && signature.abi.is_none()
        && signature.variadic.is_none()
        && matches!(signature.safety, syn::Safety::Default);
    match form(signature).filter(|_| plain) {
        Some(takes_at) => Ok(Hook { function, takes_at }),
        None => {
            let forms = match name.as_str() {
                "activate" => {
                    "`fn new(at: At<Self>) -> Self` or `-> Result<Self, E>`, `async` or not, `at` or not"
                }
                "loaded" => "`fn loaded(&mut self)` or `fn loaded(&mut self, at: At<Self>)`",
                "deactivate" => "`fn leave(&mut self)` or `fn leave(&mut self, at: At<Self>)`",
                "reminded" => {
                    "`fn wake(&mut self, reminder: Reminder)` or `fn wake(&mut self, at: At<Self>, reminder: Reminder)` or `async fn wake(cx: Cx<Self>, reminder: Reminder)`"
                }
                _memory => "`fn heap_bytes(&self) -> usize`",
            };
            let text = format!("this is not what `#[{name}]` marks: write {forms}");
            Err(Error::new_spanned(signature, text))
        }
    }
}

/// Whether what follows the receiver is nothing or `at`; if so, which.
fn at_or_nothing(signature: &Signature) -> Option<bool> {
    let mut typed = signature.inputs.iter().filter_map(|input| match input {
        FnArg::Typed(typed) => Some(typed),
        FnArg::Receiver(_) => None,
    });
    let first = typed.next();
    let is_at = first.is_none_or(|first| is_named(&first.ty, "At"));
    (is_at && typed.next().is_none()).then_some(first.is_some())
}

fn activate_form(signature: &Signature) -> Option<bool> {
    let returns = matches!(signature.output, ReturnType::Type(..));
    if signature.receiver().is_some() || !returns {
        return None;
    }
    at_or_nothing(signature)
}

fn deactivate_form(signature: &Signature) -> Option<bool> {
    let returns = matches!(signature.output, ReturnType::Type(..));
    let ReceiverKind::Reference(_, None, Some(_)) = &signature.receiver()?.kind else {
        return None;
    };
    if returns || signature.asyncness.is_some() {
        return None;
    }
    at_or_nothing(signature)
}

/// Gives whether it takes `at`, or, in place of `self`, `cx`.
fn reminded_form(signature: &Signature) -> Option<bool> {
    if matches!(signature.output, ReturnType::Type(..)) {
        return None;
    }
    let by_mut = match signature.receiver() {
        Some(receiver) => {
            let ReceiverKind::Reference(_, None, Some(_)) = &receiver.kind else { return None };
            true
        }
        None => false,
    };
    let typed = signature.inputs.iter().filter_map(|input| match input {
        FnArg::Typed(typed) => Some(&typed.ty),
        FnArg::Receiver(_) => None,
    });
    let is_async = signature.asyncness.is_some();
    match &typed.collect::<Vec<_>>()[..] {
        [cx, _] if is_async && !by_mut => is_named(cx, "Cx").then_some(false),
        [_] if by_mut && !is_async => Some(false),
        [at, _] if by_mut && !is_async => is_named(at, "At").then_some(true),
        _other => None,
    }
}

fn memory_form(signature: &Signature) -> Option<bool> {
    let ReceiverKind::Reference(_, None, None) = &signature.receiver()?.kind else { return None };
    let ReturnType::Type(_, ty) = &signature.output else { return None };
    if !is_named(ty, "usize") || signature.inputs.len() > 1 || signature.asyncness.is_some() {
        return None;
    }
    Some(false)
}
