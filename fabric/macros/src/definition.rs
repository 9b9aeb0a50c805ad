//! `#[entity]` on a struct or an enum: its name, its key, where it lives.
//!
//! # Not here
//! Its methods: they have an `#[entity]` of their own.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::ext::IdentExt;
use syn::parse::ParseStream;
use syn::spanned::Spanned;
use syn::{DeriveInput, Error, Expr, Ident, LitStr, Path, Result, Type, parse_quote};

use crate::options::{Attribute, Errors, default_home, home, serde_derives, value};
use crate::stored;
use crate::types::attributes_called;

/// The options of `#[entity]` on a type.
pub(crate) const OPTIONS: &[&str] =
    &["key", "name", "class", "group", "stateless", "idle", "serde", "crate"];

const ENTITY: Attribute = Attribute { name: "entity", options: OPTIONS };

struct Options {
    home: Path,
    key: Type,
    name: Option<LitStr>,
    class: Option<LitStr>,
    group: Option<Expr>,
    stateless: Option<Span>,
    idle_ms: Option<u64>,
    serde: Option<Span>,
}

impl Options {
    fn read(options: TokenStream, errors: &mut Errors) -> Self {
        let mut read = Self {
            home: default_home(),
            key: parse_quote!(::std::string::String),
            name: None,
            class: None,
            group: None,
            stateless: None,
            idle_ms: None,
            serde: None,
        };
        ENTITY.read(options, errors, |name, input| read.set(name, input));
        read
    }

    fn set(&mut self, name: &Ident, input: ParseStream<'_>) -> Result<()> {
        match name.to_string().as_str() {
            "crate" => self.home = home(name, input)?,
            "key" => self.key = value(name, input)?,
            "name" => self.name = Some(text(name, input)?),
            "class" => self.class = Some(text(name, input)?),
            "group" => self.group = Some(value(name, input)?),
            "stateless" => self.stateless = Some(name.span()),
            "idle" => self.idle_ms = Some(milliseconds(&text(name, input)?)?),
            _serde => self.serde = Some(name.span()),
        }
        Ok(())
    }
}

impl Options {
    /// An entity that is everywhere cannot also be somewhere.
    fn check(&self) -> Result<()> {
        let Some(stateless) = self.stateless else { return Ok(()) };
        if self.class.is_none() && self.group.is_none() {
            return Ok(());
        }
        let text = "a `stateless` entity is on every node and belongs to no place: leave out `class` and `group`, or `stateless`";
        Err(Error::new(stateless, text))
    }
}

fn text(name: &Ident, input: ParseStream<'_>) -> Result<LitStr> {
    let text: LitStr = value(name, input)?;
    if text.value().is_empty() {
        return Err(Error::new_spanned(&text, format!("`{name}` is empty")));
    }
    Ok(text)
}

fn milliseconds(text: &LitStr) -> Result<u64> {
    let written = text.value();
    let digits = written.len() - written.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = written.split_at(digits);
    let unit_ms = match unit.trim() {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _other => None,
    };
    let number: Option<u64> = number.parse().ok();
    let total_ms = number.zip(unit_ms).and_then(|(number, unit_ms)| number.checked_mul(unit_ms));
    total_ms.ok_or_else(|| {
        let refusal = format!(
            "`{written}` is not a time: write a whole number and `ms`, `s`, `m`, `h` or `d`, such as `\"10m\"`"
        );
        Error::new_spanned(text, refusal)
    })
}

/// Expands `#[entity]` on `item`.
pub(crate) fn expand(options: TokenStream, item: DeriveInput) -> TokenStream {
    let mut errors = Errors::default();
    let options = Options::read(options, &mut errors);
    if errors.keep(check(&item)).is_none() {
        return quote!(#item #errors);
    }
    errors.keep(options.check());
    let serde = serde_derives(options.serde, &options.home, &mut errors);
    let entity_type = entity_type(&item, &options);
    let item = stored::with_derives(item, &options.home, &serde);
    quote!(#item #entity_type #errors)
}

fn check(item: &DeriveInput) -> Result<()> {
    stored::check("entity", item)?;
    let generics = &item.generics;
    if generics.params.is_empty() && generics.where_clause.is_none() {
        return Ok(());
    }
    let text = "an entity has no generics: one name stands for one type, on every node; write a type for each case";
    let span =
        if generics.params.is_empty() { generics.where_clause.span() } else { generics.span() };
    Err(Error::new(span, text))
}

fn entity_type(item: &DeriveInput, options: &Options) -> TokenStream {
    let Options { home, key, name, class, group, stateless, idle_ms, .. } = options;
    let ident = &item.ident;
    let cfgs = attributes_called(&item.attrs, &["cfg"]);
    let name =
        name.clone().unwrap_or_else(|| LitStr::new(&ident.unraw().to_string(), ident.span()));
    let class = match (class, stateless) {
        (Some(class), _) => Some(quote!(#home::wire::ClassId::of(#class))),
        (None, Some(_)) => Some(quote!(#home::wire::ClassId::STATELESS)),
        (None, None) => None,
    };
    let class = class.map(|class| quote!(const CLASS: #home::wire::ClassId = #class;));
    let idle = idle_ms.map(|ms| {
        quote! {
            const IDLE: ::core::option::Option<::core::time::Duration> =
                ::core::option::Option::Some(::core::time::Duration::from_millis(#ms));
        }
    });
    let group = group.as_ref().map(|group| group_of(home, group));
    quote! {
        #(#cfgs)*
        #[automatically_derived]
        impl #home::EntityType for #ident {
            type Key = #key;
            const NAME: &'static str = #name;
            #class
            #idle
            #group
        }
    }
}

fn group_of(home: &Path, group: &Expr) -> TokenStream {
    quote! {
        fn group(key: &Self::Key) -> ::core::option::Option<u64> {
            // Says what the closure is given before the closure is looked at.
            fn number<K, G: #home::wire::EntityKey>(key: &K, group: impl FnOnce(&K) -> G) -> u64 {
                #home::wire::EntityId::group_of(&#home::wire::EntityKey::to_key(&group(key)))
            }
            ::core::option::Option::Some(number(key, #group))
        }
    }
}
