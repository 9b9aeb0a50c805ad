//! `#[entity]` on a struct or an enum: its name, its key, where it lives.
//!
//! # Not here
//! Its methods: they have an `#[entity]` of their own.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::ext::IdentExt;
use syn::parse::{Parse as _, ParseStream};
use syn::spanned::Spanned;
use syn::{DeriveInput, Error, Expr, Ident, LitInt, LitStr, Path, Result, Type, parse_quote};

use crate::options::{Attribute, Errors, advice, default_home, home, serde_derives, value};
use crate::types::attributes_called;
use crate::{message, stored};

/// The options of `#[entity]` on a type.
pub(crate) const OPTIONS: &[&str] = &[
    "key",
    "name",
    "class",
    "group",
    "stateless",
    "saved",
    "lag",
    "version",
    "upgrades",
    "writes",
    "idle",
    "serde",
    "crate",
];

/// What `saved` may say.
const POLICIES: &[&str] = &["write_behind", "every_turn", "manual", "never"];

const ENTITY: Attribute = Attribute { name: "entity", options: OPTIONS };

struct Options {
    home: Path,
    key: Type,
    name: Option<LitStr>,
    class: Option<LitStr>,
    group: Option<Expr>,
    stateless: Option<Span>,
    saved: Option<LitStr>,
    lag: Option<(Span, u64)>,
    version: Option<LitInt>,
    upgrades: Vec<Type>,
    writes: Option<LitInt>,
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
            saved: None,
            lag: None,
            version: None,
            upgrades: Vec::new(),
            writes: None,
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
            "saved" => self.saved = Some(policy(name, input)?),
            "lag" => self.lag = Some((name.span(), milliseconds(&text(name, input)?)?)),
            "version" => self.version = Some(value(name, input)?),
            "upgrades" => self.upgrades = types(name, input)?,
            "writes" => self.writes = Some(value(name, input)?),
            "idle" => self.idle_ms = Some(milliseconds(&text(name, input)?)?),
            _serde => self.serde = Some(name.span()),
        }
        Ok(())
    }
}

impl Options {
    fn check(&self) -> Result<()> {
        self.check_place()?;
        self.check_saving()
    }

    fn check_saving(&self) -> Result<()> {
        let saved = self.saved.as_ref().map(LitStr::value);
        if let (Some(stateless), Some(_)) = (self.stateless, &saved) {
            let text = "a `stateless` entity is never saved: leave out `saved`, or `stateless`";
            return Err(Error::new(stateless, text));
        }
        if let (Some((span, _)), Some(other)) = (self.lag, saved.filter(|s| s != "write_behind")) {
            let text = format!(
                "`lag` says how late `write_behind` may be, and this is saved as `{other}`: leave out `lag`, or `saved`"
            );
            return Err(Error::new(span, text));
        }
        self.check_version()?;
        self.check_writes()
    }

    fn check_version(&self) -> Result<()> {
        let Some(version) = &self.version else { return Ok(()) };
        let (number, upgrades) = (version.base10_parse::<u32>()?, self.upgrades.len());
        if number == 0 || number as usize <= upgrades {
            let text = format!(
                "the first version is 1, and {upgrades} come before this one: write `version = {}` or more",
                upgrades + 1
            );
            return Err(Error::new_spanned(version, text));
        }
        Ok(())
    }

    fn check_writes(&self) -> Result<()> {
        let Some(writes) = &self.writes else { return Ok(()) };
        let (number, schema, oldest) =
            (writes.base10_parse::<u32>()?, self.schema(), self.oldest());
        if (oldest..schema).contains(&number) {
            return Ok(());
        }
        let text = if self.upgrades.is_empty() {
            "`writes` names an earlier version: name its type in `upgrades(…)`".to_owned()
        } else if oldest == schema - 1 {
            format!("`writes` names a version of `upgrades`, which is {oldest}")
        } else {
            format!("`writes` names a version of `upgrades`, which are {oldest} to {}", schema - 1)
        };
        Err(Error::new_spanned(writes, text))
    }

    /// The oldest version that is read.
    fn oldest(&self) -> u32 {
        self.schema().saturating_sub(u32::try_from(self.upgrades.len()).unwrap_or(0))
    }

    /// How a state is written as an earlier version.
    fn writing(&self) -> Option<TokenStream> {
        let home = &self.home;
        let number: u32 = self.writes.as_ref()?.base10_parse().ok()?;
        let at = usize::try_from(number.checked_sub(self.oldest())?).ok()?;
        let older = self.upgrades.get(at)?;
        Some(quote! {
            const WRITES: u32 = #number;
            fn written_layout() -> u64 {
                #home::layout_of(<#older as #home::Message>::form)
            }
            fn write(
                &self,
                schema: u32,
                out: &mut #home::wire::Out<'_>,
            ) -> ::core::result::Result<(), #home::wire::Unwritten> {
                if schema == #number {
                    return out.put(&<#older as ::core::convert::From<&Self>>::from(self));
                }
                out.put(self)
            }
        })
    }

    /// The version of the fields.
    fn schema(&self) -> u32 {
        let written = self.version.as_ref().and_then(|version| version.base10_parse().ok());
        written.unwrap_or_else(|| u32::try_from(self.upgrades.len() + 1).unwrap_or(u32::MAX))
    }

    /// When it is saved.
    fn policy(&self) -> TokenStream {
        let home = &self.home;
        let saved = self.saved.as_ref().map(LitStr::value);
        let lag_ms = self.lag.map(|(_, ms)| ms);
        match (saved.as_deref(), self.stateless, lag_ms) {
            (_, Some(_), _) | (Some("never"), ..) => quote!(#home::Policy::Never),
            (Some("every_turn"), ..) => quote!(#home::Policy::EveryTurn),
            (Some("manual"), ..) => quote!(#home::Policy::Manual),
            (_, _, Some(ms)) => {
                quote!(#home::Policy::WriteBehind { lag: ::core::time::Duration::from_millis(#ms) })
            }
            (_, _, None) => quote!(#home::Policy::DEFAULT),
        }
    }

    /// How a state of any version that is known is read.
    fn reading(&self) -> Option<TokenStream> {
        let home = &self.home;
        let oldest = self.oldest();
        let arms = self.upgrades.iter().enumerate().map(|(at, older)| {
            let version = oldest + u32::try_from(at).unwrap_or(0);
            let later = self.upgrades.iter().skip(at + 1);
            quote! {
                #version => {
                    let state = stored.older::<#older>()?;
                    #(let state = <#later as ::core::convert::From<_>>::from(state);)*
                    ::core::result::Result::Ok(<Self as ::core::convert::From<_>>::from(state))
                }
            }
        });
        (!self.upgrades.is_empty()).then(|| {
            quote! {
                fn read(stored: #home::Stored<'_>) -> ::core::result::Result<Self, #home::Unreadable> {
                    match stored.schema {
                        #(#arms)*
                        _ => stored.current(),
                    }
                }
            }
        })
    }

    /// An entity that is everywhere cannot also be somewhere.
    fn check_place(&self) -> Result<()> {
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

fn policy(name: &Ident, input: ParseStream<'_>) -> Result<LitStr> {
    let written = text(name, input)?;
    if POLICIES.contains(&written.value().as_str()) {
        return Ok(written);
    }
    let text = format!(
        "`saved` has no form `{}`: {}",
        written.value(),
        advice(&written.value(), POLICIES)
    );
    Err(Error::new_spanned(&written, text))
}

/// `(A, B)`.
fn types(name: &Ident, input: ParseStream<'_>) -> Result<Vec<Type>> {
    if !input.peek(syn::token::Paren) {
        let text = "`upgrades` needs the types of the versions before: write `upgrades(PlayerV1, PlayerV2)`";
        return Err(Error::new_spanned(name, text));
    }
    let list;
    syn::parenthesized!(list in input);
    let types = list.parse_terminated(Type::parse, syn::Token![,])?;
    Ok(types.into_iter().collect())
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
    let (saved, schema) = (options.policy(), options.schema());
    let (reading, writing) = (options.reading(), options.writing());
    let form = message::form(item, home);
    let shows = (options.serde.is_some() && cfg!(feature = "serde")).then(|| {
        quote! {
            const SHOWS: ::core::option::Option<fn(&Self) -> #home::Shown> =
                ::core::option::Option::Some(#home::to_json::<Self>);
        }
    });
    let every_turn = options.saved.as_ref().is_some_and(|saved| saved.value() == "every_turn");
    let every_turn = every_turn.then(|| {
        quote! {
            #(#cfgs)*
            #[automatically_derived]
            impl #home::EveryTurn for #ident {}
        }
    });
    quote! {
        #every_turn

        #(#cfgs)*
        #[automatically_derived]
        impl #home::EntityType for #ident {
            type Key = #key;
            const NAME: &'static str = #name;
            #class
            #idle
            const SAVED: #home::Policy = #saved;
            const SCHEMA: u32 = #schema;
            #shows
            #form
            #reading
            #writing
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
