//! `#[epicserver::main]` and `#[epicserver::test]`.
//!
//! # Not here
//! What a program does with its arguments, or how a fabric is simulated.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::parse::ParseStream;
use syn::punctuated::Punctuated;
use syn::{Attribute, Error, FnArg, Ident, LitInt, Path, Result, Token, Type, parenthesized};

use crate::block::Function;
use crate::options::{self, Errors, default_home, home, value};
use crate::types::attributes_called;

const MAIN: options::Attribute =
    options::Attribute { name: "epicserver::main", options: &["entities", "crate"] };

const TEST: options::Attribute = options::Attribute {
    name: "epicserver::test",
    options: &["entities", "nodes", "shards", "seed", "seeds", "faults", "crate"],
};

#[derive(Default)]
struct Options {
    home: Option<Path>,
    entities: Option<Punctuated<Type, Token![,]>>,
    nodes: Option<LitInt>,
    shards: Option<LitInt>,
    seed: Option<LitInt>,
    seeds: Option<LitInt>,
}

impl Options {
    fn set(&mut self, name: &Ident, input: ParseStream<'_>) -> Result<()> {
        match name.to_string().as_str() {
            "crate" => self.home = Some(home(name, input)?),
            "entities" => self.entities = Some(types(name, input)?),
            "nodes" => self.nodes = Some(at_least_one(name, input)?),
            "shards" => self.shards = Some(at_least_one(name, input)?),
            "seed" => self.seed = Some(value(name, input)?),
            "seeds" => self.seeds = Some(at_least_one(name, input)?),
            other => {
                let text = format!("`{other}` is not available in this version");
                return Err(Error::new_spanned(name, text));
            }
        }
        Ok(())
    }

    fn home(&self) -> Path {
        self.home.clone().unwrap_or_else(default_home)
    }

    /// The function that registers the entities.
    fn register(&self) -> TokenStream {
        let entities = self.entities.iter().flatten();
        quote! {
            |registry| {
                #(registry.add::<#entities>()?;)*
                ::core::result::Result::Ok(())
            }
        }
    }
}

fn types(name: &Ident, input: ParseStream<'_>) -> Result<Punctuated<Type, Token![,]>> {
    if !input.peek(syn::token::Paren) {
        let text = format!("`{name}` is a list: write `{name}(Player, Barrel)`");
        return Err(Error::new_spanned(name, text));
    }
    let content;
    parenthesized!(content in input);
    Punctuated::parse_terminated(&content)
}

fn at_least_one(name: &Ident, input: ParseStream<'_>) -> Result<LitInt> {
    let number: LitInt = value(name, input)?;
    if number.base10_parse::<u64>()? == 0 {
        return Err(Error::new_spanned(&number, format!("`{name}` is at least 1")));
    }
    Ok(number)
}

/// Refuses what cannot be a setup.
fn check(function: &Function) -> Result<()> {
    let signature = &function.sig;
    let name = &signature.ident;
    let form = format!("async fn {name}(pool: Pool)");
    if signature.asyncness.is_none() {
        let text = format!("it calls entities, and calls are awaited: write `{form}`");
        return Err(Error::new(signature.fn_token.span, text));
    }
    if !signature.generics.params.is_empty() {
        let text = format!("nobody could say what the generics are: write `{form}`");
        return Err(Error::new_spanned(&signature.generics, text));
    }
    let first_is_self = matches!(signature.inputs.first(), Some(FnArg::Receiver(_)));
    if signature.inputs.len() > 1 || first_is_self {
        let text = format!("it is given the pool and nothing else: write `{form}`");
        return Err(Error::new_spanned(&signature.inputs, text));
    }
    Ok(())
}

/// What runs the function, as an async closure of the pool.
fn setup(function: &Function) -> TokenStream {
    let name = &function.sig.ident;
    if function.sig.inputs.is_empty() { quote!(async |_| #name().await) } else { quote!(#name) }
}

/// Expands `#[epicserver::main]`.
pub(crate) fn expand_main(options: TokenStream, function: &Function) -> TokenStream {
    let mut errors = Errors::default();
    let mut read = Options::default();
    MAIN.read(options, &mut errors, |name, input| read.set(name, input));
    errors.keep(check(function));
    if read.entities.as_ref().is_none_or(Punctuated::is_empty) && errors.is_empty() {
        let text = "a node serves the entities that are named to it: write `#[epicserver::main(entities(Player, Barrel))]`";
        errors.push(Error::new(Span::call_site(), text));
    }
    let is_main = function.sig.ident == "main";
    if !errors.is_empty() {
        // A binary without `main` would be one error more.
        let main = (!is_main).then(|| quote!(#[allow(dead_code)] #function));
        return quote!(#main fn main() {} #errors);
    }
    let (home, register, setup) = (read.home(), read.register(), setup(function));
    let (outside, inside) = if is_main { (None, Some(function)) } else { (Some(function), None) };
    let cfgs = attributes_called(&function.attrs, &["cfg"]);
    quote! {
        #outside

        #(#cfgs)*
        fn main() -> ::std::process::ExitCode {
            #inside

            #home::main(#register, #setup)
        }
    }
}

/// Expands `#[epicserver::test]`.
pub(crate) fn expand_test(options: TokenStream, mut function: Function) -> TokenStream {
    let mut errors = Errors::default();
    let mut read = Options::default();
    TEST.read(options, &mut errors, |name, input| read.set(name, input));
    errors.keep(check(&function));
    if !errors.is_empty() {
        return quote!(#[allow(dead_code)] #function #errors);
    }
    let (home, register, setup) = (read.home(), read.register(), setup(&function));
    let one = || LitInt::new("1", Span::call_site());
    let [nodes, shards, seeds] =
        [read.nodes, read.shards, read.seeds].map(|number| number.unwrap_or_else(one));
    let seed = match read.seed {
        Some(seed) => quote!(::core::option::Option::Some(#seed)),
        None => quote!(::core::option::Option::None),
    };
    let attrs: Vec<Attribute> = std::mem::take(&mut function.attrs);
    let name = &function.sig.ident;
    quote! {
        #(#attrs)*
        #[::core::prelude::v1::test]
        fn #name() {
            #function

            #home::test(
                #home::TestOptions {
                    nodes: #nodes,
                    shards: #shards,
                    seed: #seed,
                    seeds: #seeds,
                },
                #register,
                #setup,
            )
        }
    }
}
