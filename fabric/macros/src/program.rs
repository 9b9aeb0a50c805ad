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
    options: &["entities", "nodes", "shards", "seed", "seeds", "store", "faults", "crate"],
};

/// Nodes that a test may have, and shards of each; those of the simulator.
const NODES_MAX: u64 = 16;
const SHARDS_MAX: u64 = 16;

/// What may happen to the nodes of a test, and what the simulator calls it.
const FAULTS: [&str; 6] = ["crash", "leave", "partition", "pause", "delay", "store"];
const FAULT_VARIANTS: [&str; 6] = ["Crash", "Leave", "Partition", "Pause", "Delay", "Store"];

#[derive(Default)]
struct Options {
    home: Option<Path>,
    entities: Option<Punctuated<Type, Token![,]>>,
    nodes: Option<LitInt>,
    shards: Option<LitInt>,
    seed: Option<LitInt>,
    seeds: Option<LitInt>,
    store: bool,
    faults: Vec<Ident>,
}

impl Options {
    fn set(&mut self, name: &Ident, input: ParseStream<'_>) -> Result<()> {
        match name.to_string().as_str() {
            "crate" => self.home = Some(home(name, input)?),
            "entities" => self.entities = Some(types(name, input)?),
            "nodes" => self.nodes = Some(up_to(NODES_MAX, name, input)?),
            "shards" => self.shards = Some(up_to(SHARDS_MAX, name, input)?),
            "seed" => self.seed = Some(value(name, input)?),
            "seeds" => self.seeds = Some(up_to(u64::MAX, name, input)?),
            "store" => self.store = true,
            "faults" => self.faults = faults(name, input)?,
            other => {
                let text = format!("`{other}` is not available in this version");
                return Err(Error::new_spanned(name, text));
            }
        }
        Ok(())
    }

    /// Refuses options that do not go together.
    fn check(&self) -> Result<()> {
        if let (Some(seed), Some(seeds)) = (&self.seed, &self.seeds) {
            let text = format!(
                "`seed` repeats one run, and `seeds` makes many: write `seed = {seed}` or `seeds = {seeds}`"
            );
            return Err(Error::new_spanned(seed, text));
        }
        let Some(first) = self.faults.first() else { return Ok(()) };
        let alone = match &self.nodes {
            Some(nodes) => nodes.base10_parse::<u64>()? < 2,
            None => true,
        };
        if alone {
            let text = "nothing happens to the node on which the test itself runs: write `nodes = 2`, or more";
            return Err(Error::new_spanned(first, text));
        }
        match self.faults.iter().find(|fault| *fault == "store") {
            Some(fault) if !self.store => {
                let text = "there is no store that could fail: write `store` beside `faults`";
                Err(Error::new_spanned(fault, text))
            }
            _ => Ok(()),
        }
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

/// A number from 1 to `most`.
fn up_to(most: u64, name: &Ident, input: ParseStream<'_>) -> Result<LitInt> {
    let number: LitInt = value(name, input)?;
    let given: u64 = number.base10_parse()?;
    let text = match given {
        0 if most == u64::MAX => format!("`{name}` is at least 1: write `{name} = 1`"),
        0 => format!("`{name}` is from 1 to {most}: write `{name} = 1`"),
        more if more > most => format!("`{name}` is from 1 to {most}: write `{name} = {most}`"),
        _ => return Ok(number),
    };
    Err(Error::new_spanned(&number, text))
}

/// `(crash, leave)`.
fn faults(name: &Ident, input: ParseStream<'_>) -> Result<Vec<Ident>> {
    if !input.peek(syn::token::Paren) {
        let text = "`faults` is a list: write `faults(crash, leave)`";
        return Err(Error::new_spanned(name, text));
    }
    let content;
    parenthesized!(content in input);
    let listed = Punctuated::<Ident, Token![,]>::parse_terminated(&content)?;
    let mut faults: Vec<Ident> = Vec::new();
    for fault in listed {
        let text = fault.to_string();
        if !FAULTS.contains(&text.as_str()) {
            let advice = options::advice(&text, &FAULTS);
            let text = format!("no fault is called `{text}`: {advice}");
            return Err(Error::new_spanned(fault, text));
        }
        if faults.contains(&fault) {
            let text = format!("`{fault}` is named twice: write it once, its number is drawn");
            return Err(Error::new_spanned(fault, text));
        }
        faults.push(fault);
    }
    if faults.is_empty() {
        let text = "it says what goes wrong: write `faults(crash)`, or leave `faults` out";
        return Err(Error::new_spanned(name, text));
    }
    Ok(faults)
}

/// A fault as the simulator calls it.
fn variant(fault: &Ident) -> Ident {
    let place = FAULTS.iter().position(|name| fault == name).unwrap_or(0);
    Ident::new(FAULT_VARIANTS[place], fault.span())
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
    if errors.is_empty() {
        errors.keep(read.check());
    }
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
    let (store, faults) = (read.store, read.faults.iter().map(variant));
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
                    store: #store,
                    faults: &[#(#home::TestFault::#faults),*],
                },
                #register,
                #setup,
            )
        }
    }
}
