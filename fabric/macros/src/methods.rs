//! `#[entity]` on an `impl`: the calls of the type, and how each of its methods starts.
//!
//! # Invariants
//! - **M5** What is generated has names that no user's name can meet: markers live in a hidden
//!   module of their own, and hold the types of the signature, so that they are exactly as visible.
//!
//! # Not here
//! Reading signatures.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::parse::ParseStream;
use syn::spanned::Spanned;
use syn::{Attribute, Error, Ident, Path, PathArguments, Result};

use crate::block::Block;
use crate::definition;
use crate::hooks::Hooks;
use crate::options::{self, Errors, default_home, home};
use crate::signature::{Method, Mode};
use crate::types::{attributes_called, last_segment, shown};

const ENTITY: options::Attribute =
    options::Attribute { name: "entity", options: definition::OPTIONS };

/// Expands `#[entity]` on `block`.
pub(crate) fn expand(options: TokenStream, block: &Block) -> TokenStream {
    let mut errors = Errors::default();
    let mut path = default_home();
    let set = |name: &Ident, input: ParseStream<'_>| {
        if name != "crate" {
            let text =
                format!("`{name}` belongs to the `#[entity]` above the definition of the type");
            return Err(Error::new_spanned(name, text));
        }
        path = home(name, input)?;
        Ok(())
    };
    ENTITY.read(options, &mut errors, set);
    let Some(name) = errors.keep(check(block)) else {
        return quote!(#block #errors);
    };
    let own = block.self_ty.to_token_stream();
    let mut hooks = Hooks::default();
    let mut methods: Vec<Method> = Vec::new();
    for function in block.functions() {
        if hooks.take(function, &mut errors) {
            continue;
        }
        let method = Method::read(function, &own).and_then(|method| unique(method, &methods));
        methods.extend(errors.keep(method).flatten());
    }
    let generated = Generated {
        calls: format_ident!("{}Calls", name, span = generated(name.span())),
        markers: format_ident!("__{}Methods", name, span = Span::call_site()),
        home: path,
        cfgs: attributes_called(&block.attrs, &["cfg"]),
        own,
        methods,
    };
    let entity = generated.entity(&hooks);
    let reminded = generated.reminded(&hooks);
    let calls = generated.calls();
    let markers = generated.markers();
    let methods = generated.methods.iter().map(|method| generated.method(method));
    quote! {
        // `pub` says which methods can be called, whoever may name the type.
        #[allow(unreachable_pub, private_interfaces)]
        #block
        #calls
        #markers
        #(#methods)*
        #entity
        #reminded
        #errors
    }
}

/// A place in the user's code, for a name that is not the user's: lints leave it alone.
fn generated(place: Span) -> Span {
    place.resolved_at(Span::call_site())
}

/// The name of the type.
fn check(block: &Block) -> Result<Ident> {
    if let Some((of_trait, _)) = &block.of_trait {
        let text = format!(
            "`#[entity]` goes on one `impl` without a trait: write a `pub` method there, and call it in `impl {} for …`",
            shown(of_trait)
        );
        return Err(Error::new_spanned(of_trait, text));
    }
    let segment = last_segment(&block.self_ty).ok_or_else(|| {
        Error::new_spanned(&block.self_ty, "`#[entity]` goes on `impl Type` of a struct or an enum")
    })?;
    let generic = "an entity has no generics: one name stands for one type, on every node; write a type for each case";
    if !block.generics.params.is_empty() {
        return Err(Error::new_spanned(&block.generics, generic));
    }
    if !matches!(segment.arguments, PathArguments::None) {
        return Err(Error::new_spanned(&segment.arguments, generic));
    }
    Ok(segment.ident.unraw())
}

fn unique(method: Option<Method>, others: &[Method]) -> Result<Option<Method>> {
    let Some(method) = method else { return Ok(None) };
    if others.iter().any(|other| other.name.unraw() == method.name.unraw()) {
        let text = format!(
            "there are two methods `{0}`, but a call says only the name: choose another one, or write one `{0}` with the `#[cfg]` in its body",
            method.name
        );
        return Err(Error::new_spanned(&method.name, text));
    }
    Ok(Some(method))
}

struct Generated {
    home: Path,
    own: TokenStream,
    /// The conditions of the whole block.
    cfgs: Vec<Attribute>,
    calls: Ident,
    markers: Ident,
    methods: Vec<Method>,
}

/// What is said of a method, as a type.
struct Implementation<'a> {
    cfgs: &'a TokenStream,
    marker: &'a TokenStream,
    arguments: TokenStream,
    reply: TokenStream,
    output: TokenStream,
    /// How that comes of `outcome`.
    outcome: TokenStream,
    name: &'a str,
    mode: Mode,
    looks: bool,
    start: TokenStream,
}

impl Generated {
    fn cfgs(&self, method: &Method) -> TokenStream {
        let own = attributes_called(&method.attrs, &["cfg"]);
        let block = &self.cfgs;
        quote!(#(#block)* #(#own)*)
    }

    /// The type that stands for the method. Its parameter is its signature: a trait's associated
    /// types may not be more private than the type that implements it.
    fn marker(&self, method: &Method) -> TokenStream {
        let (markers, own, reply) = (&self.markers, &self.own, &method.reply);
        let name = generated_name(method);
        let types = method.arguments.iter().map(|argument| &argument.ty);
        quote!(#markers::#name<fn(#own #(, #types)*) -> #reply>)
    }

    /// The hidden module of the methods' types.
    fn markers(&self) -> TokenStream {
        let (markers, block_cfgs) = (&self.markers, &self.cfgs);
        let types = self.methods.iter().map(|method| {
            let cfgs = attributes_called(&method.attrs, &["cfg"]);
            let name = generated_name(method);
            quote! {
                #(#cfgs)*
                #[doc = "A method, as a type."]
                pub struct #name<F>(::core::marker::PhantomData<fn() -> F>);
            }
        });
        quote! {
            #(#block_cfgs)*
            #[doc(hidden)]
            #[allow(non_snake_case, non_camel_case_types, dead_code, missing_debug_implementations)]
            pub mod #markers {
                #(#types)*
            }
        }
    }

    /// The type of the calls.
    fn calls(&self) -> TokenStream {
        let Self { home, own, calls, cfgs, .. } = self;
        let text = format!("The calls of [`{}`], made on a `Ref` of it.", shown(own));
        let methods = self.methods.iter().map(|method| self.call(method));
        quote! {
            #(#cfgs)*
            #[doc = #text]
            #[derive(::core::clone::Clone, ::core::fmt::Debug)]
            pub struct #calls(#home::Target);

            #(#cfgs)*
            #[automatically_derived]
            impl #home::Calls for #calls {
                fn of(target: #home::Target) -> Self {
                    Self(target)
                }

                fn target(&self) -> &#home::Target {
                    &self.0
                }
            }

            #(#cfgs)*
            #[allow(dead_code, private_interfaces, rustdoc::broken_intra_doc_links)]
            #[allow(clippy::all, clippy::pedantic, clippy::nursery)]
            impl #calls {
                #(#methods)*
            }
        }
    }

    fn call(&self, method: &Method) -> TokenStream {
        let Self { home, own, .. } = self;
        let Method { attrs, .. } = method;
        let name = generated_name(method);
        let documented = attrs.iter().any(|attr| attr.path().is_ident("doc"));
        let text = (!documented).then(|| {
            let text = format!("Calls [`{0}::{1}`].", shown(own), method.name.unraw());
            quote!(#[doc = #text])
        });
        let marker = self.marker(method);
        let names: Vec<&Ident> = method.arguments.iter().map(|argument| &argument.name).collect();
        let types = method.arguments.iter().map(|argument| &argument.ty);
        quote! {
            #(#attrs)*
            #text
            pub fn #name(&self #(, #names: #types)*) -> #home::Call<#marker> {
                #home::Call::new(&self.0, (#(#names,)*))
            }
        }
    }

    /// What a node has to know of the method.
    fn method(&self, method: &Method) -> TokenStream {
        let Self { home, .. } = self;
        let (cfgs, marker, reply) = (self.cfgs(method), self.marker(method), &method.reply);
        let name = method.name.unraw().to_string();
        let types = method.arguments.iter().map(|argument| &argument.ty);
        // An argument that is no message is shown where the arguments are written.
        let arguments = quote_spanned!(generated(method.place)=> (#(#types,)*));
        let (output, outcome) = self.output(method);
        let implementation = self.implementation(&Implementation {
            cfgs: &cfgs,
            marker: &marker,
            arguments,
            reply: reply.clone(),
            output,
            outcome,
            name: &name,
            mode: method.mode,
            looks: method.looks,
            start: self.start(method),
        });
        let repeatable = (method.mode != Mode::Shared).then(|| {
            quote! {
                #cfgs
                #[automatically_derived]
                impl #home::Repeatable for #marker {}
            }
        });
        quote!(#repeatable #implementation)
    }

    fn implementation(&self, of: &Implementation<'_>) -> TokenStream {
        let Self { home, own, .. } = self;
        let Implementation { cfgs, marker, arguments, reply, output, outcome, .. } = of;
        let Implementation { name, looks, start, .. } = of;
        let mode = match of.mode {
            Mode::Turn => quote!(Turn),
            Mode::Shared => quote!(Shared),
            Mode::Exclusive => quote!(Exclusive),
        };
        quote! {
            #cfgs
            #[automatically_derived]
            #[allow(deprecated, clippy::all, clippy::pedantic, clippy::nursery)]
            impl #home::Method for #marker {
                type Entity = #own;
                type Args = #arguments;
                type Reply = #reply;
                type Output = #output;
                const NAME: &'static str = #name;
                const MODE: #home::Mode = #home::Mode::#mode;
                const LOOKS: bool = #looks;

                fn output(
                    outcome: ::core::result::Result<Self::Reply, #home::wire::CallError>,
                ) -> Self::Output {
                    #outcome
                }

                fn start(
                    call: ::std::boxed::Box<#home::Envelope<Self>>,
                    cell: ::std::rc::Rc<#home::StateCell<Self::Entity>>,
                ) -> #home::Started<Self> {
                    #start
                }

                fn pool() -> &'static ::std::thread::LocalKey<#home::MethodPool<Self>> {
                    ::std::thread_local! {
                        static POOL: #home::MethodPool<#marker> =
                            const { #home::MethodPool::new() };
                    }
                    &POOL
                }
            }
        }
    }

    /// What the caller gets, and how it comes of an outcome.
    fn output(&self, method: &Method) -> (TokenStream, TokenStream) {
        let (home, reply) = (&self.home, &method.reply);
        if !method.is_result {
            return (
                quote!(::core::result::Result<#reply, #home::wire::CallError>),
                quote!(outcome),
            );
        }
        // Where the user's error cannot hold a call's, the return type is what has to change.
        let span = generated(reply.span());
        let from = quote_spanned!(span=> ::core::convert::From::from(error));
        let flat = quote! {
            match outcome {
                ::core::result::Result::Ok(reply) => reply,
                ::core::result::Result::Err(error) => ::core::result::Result::Err(#from),
            }
        };
        (reply.clone(), flat)
    }

    fn start(&self, method: &Method) -> TokenStream {
        let Self { home, own, .. } = self;
        let name = &method.name;
        let names: Vec<Ident> =
            (0..method.arguments.len()).map(|index| format_ident!("a{index}")).collect();
        let arguments = quote!((#(#names,)*));
        match method.mode {
            Mode::Turn => {
                let at = method.takes_at.then(|| quote!(#home::At::of(cell),));
                let run = if method.looks { quote!(look) } else { quote!(turn) };
                quote! {
                    #home::run::#run::<Self>(call, &cell, |state, cell, #arguments| {
                        <#own>::#name(state, #at #(#names),*)
                    })
                }
            }
            Mode::Shared => quote! {
                #home::run::shared::<Self, _>(call, cell, |cx, #arguments| {
                    <#own>::#name(cx, #(#names),*)
                })
            },
            Mode::Exclusive => {
                let at = method.takes_at.then(|| quote!(at,));
                quote! {
                    #home::run::exclusive::<Self>(
                        call,
                        cell,
                        async |state: &mut #own, at, #arguments| {
                            <#own>::#name(state, #at #(#names),*).await
                        },
                    )
                }
            }
        }
    }

    /// The hook for reminders, as a method that is in no list.
    fn reminded(&self, hooks: &Hooks<'_>) -> Option<TokenStream> {
        let (name, is_async, takes_at, own_cfgs) = hooks.reminded()?;
        let Self { home, own, cfgs, .. } = self;
        let cfgs = quote!(#(#cfgs)* #(#own_cfgs)*);
        let hook = format_ident!("__{}Reminded", self.calls, span = Span::call_site());
        // Its parameter is why it may be more visible than the entity, as in `marker`.
        let marker = quote!(#hook<fn(#own)>);
        let at = takes_at.then(|| quote!(#home::At::of(cell),));
        let (mode, start) = if is_async {
            let start = quote! {
                #home::run::shared::<Self, _>(call, cell, |cx, args| {
                    #home::remind_shared(cx, args, <#own>::#name)
                })
            };
            (Mode::Shared, start)
        } else {
            let start = quote! {
                #home::run::turn::<Self>(call, &cell, |state, cell, args| {
                    #home::remind_turn(cell, &args, |reminder| <#own>::#name(state, #at reminder))
                })
            };
            (Mode::Turn, start)
        };
        let implementation = self.implementation(&Implementation {
            cfgs: &cfgs,
            marker: &marker,
            arguments: quote!(#home::RemindArgs),
            reply: quote!(()),
            output: quote!(::core::result::Result<(), #home::wire::CallError>),
            outcome: quote!(outcome),
            name: "#[reminded]",
            mode,
            looks: false,
            start,
        });
        Some(quote! {
            #cfgs
            #[doc(hidden)]
            #[allow(non_camel_case_types, missing_debug_implementations)]
            pub struct #hook<F>(::core::marker::PhantomData<fn() -> F>);

            #cfgs
            #[automatically_derived]
            impl #home::Reminded for #own {
                type Hook = #marker;
            }

            #cfgs
            const _: () = ::core::assert!(
                !::core::matches!(<#own as #home::EntityType>::SAVED, #home::Policy::Never),
                "an entity that is never saved has no reminders: leave `saved = \"never\"` out, or `#[reminded]`"
            );

            #implementation
        })
    }

    fn entity(&self, hooks: &Hooks<'_>) -> TokenStream {
        let Self { home, own, calls, cfgs, .. } = self;
        let reminds = hooks.reminded().map(|(_, _, _, cfgs)| {
            quote! {
                #(#cfgs)*
                const REMINDS: ::core::option::Option<#home::Reminds> =
                    ::core::option::Option::Some(#home::Reminds::of::<Self>());
            }
        });
        let hooks = hooks.functions(own, home);
        let infos = self.methods.iter().map(|method| {
            let cfgs = attributes_called(&method.attrs, &["cfg"]);
            let marker = self.marker(method);
            quote!(#(#cfgs)* #home::MethodInfo::of::<#marker>())
        });
        quote! {
            #(#cfgs)*
            #[automatically_derived]
            #[allow(deprecated, clippy::all, clippy::pedantic, clippy::nursery)]
            impl #home::Entity for #own {
                type Calls = #calls;
                const METHODS: &'static [#home::MethodInfo] = &[#(#infos),*];
                #reminds

                #hooks
            }
        }
    }
}

/// The name of the method, for what is generated for it.
fn generated_name(method: &Method) -> Ident {
    let mut name = method.name.clone();
    name.set_span(generated(name.span()));
    name
}
