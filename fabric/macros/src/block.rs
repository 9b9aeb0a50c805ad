//! An `impl` block whose signatures are read and whose bodies are not.
//!
//! # Invariants
//! - **M3** The functions come out as they went in, without the marker attributes and nothing else
//!   changed: bodies are tokens that are never looked at.
//!
//! # Not here
//! What the signatures mean.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use quote::{ToTokens, TokenStreamExt, format_ident, quote};
use syn::parse::discouraged::Speculative;
use syn::parse::{Parse, ParseStream};
use syn::{
    Attribute, Error, Generics, ImplItem, Path, Result, Signature, Token, Type, Visibility,
    WhereClause, braced,
};

use crate::types::attributes_called;

/// The attributes that mark methods for `#[entity]`.
pub(crate) const MARKERS: [&str; 6] =
    ["exclusive", "activate", "loaded", "deactivate", "memory", "reminded"];

/// An `impl` block.
pub(crate) struct Block {
    pub(crate) attrs: Vec<Attribute>,
    unsafety: Option<Token![unsafe]>,
    impl_token: Token![impl],
    pub(crate) generics: Generics,
    /// In an `impl` of a trait: the trait.
    pub(crate) of_trait: Option<(Type, Token![for])>,
    pub(crate) self_ty: Type,
    where_clause: Option<WhereClause>,
    inner_attrs: Vec<Attribute>,
    items: Vec<Item>,
}

enum Item {
    Function(Box<Function>),
    Other(TokenStream),
}

/// A function whose body is not looked at.
pub(crate) struct Function {
    /// Its attributes without the markers.
    pub(crate) attrs: Vec<Attribute>,
    /// The markers.
    pub(crate) markers: Vec<Attribute>,
    pub(crate) vis: Visibility,
    pub(crate) sig: Signature,
    body: Group,
}

/// What a mark is given that `#[entity]` has seen.
pub(crate) const SEEN: &str = "seen_by_entity";

impl Block {
    /// A use of each mark that was taken away, so that its import is not unused, and its name is
    /// looked up as that of any other attribute.
    fn marks(&self) -> TokenStream {
        let mut paths: Vec<&Path> = Vec::new();
        for marker in self.functions().flat_map(|function| &function.markers) {
            if !paths.iter().any(|path| same_text(path, marker.path())) {
                paths.push(marker.path());
            }
        }
        let seen = format_ident!("{SEEN}");
        let cfgs = attributes_called(&self.attrs, &["cfg"]);
        let uses = paths.iter().map(|path| quote!(#(#cfgs)* #[#path(#seen)] const _: () = ();));
        uses.collect()
    }

    /// The functions in it.
    pub(crate) fn functions(&self) -> impl Iterator<Item = &Function> {
        self.items.iter().filter_map(|item| match item {
            Item::Function(function) => Some(&**function),
            Item::Other(_) => None,
        })
    }
}

impl Function {
    /// The marker called `name`.
    pub(crate) fn marker(&self, name: &str) -> Option<&Attribute> {
        self.markers.iter().find(|marker| is_called(marker, name))
    }
}

fn same_text(a: &Path, b: &Path) -> bool {
    a.to_token_stream().to_string() == b.to_token_stream().to_string()
}

fn is_called(attr: &Attribute, name: &str) -> bool {
    attr.path().segments.last().is_some_and(|segment| segment.ident == name)
}

fn is_marker(attr: &Attribute) -> bool {
    MARKERS.iter().any(|name| is_called(attr, name))
}

impl Parse for Block {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let attrs = Attribute::parse_outer(input)?;
        let unsafety = input.parse()?;
        let impl_token = input.parse()?;
        let generics = if input.peek(Token![<]) { input.parse()? } else { Generics::default() };
        let first: Type = input.parse()?;
        let for_token: Option<Token![for]> = input.parse()?;
        let (of_trait, self_ty) = match for_token {
            Some(for_token) => (Some((first, for_token)), input.parse()?),
            None => (None, first),
        };
        let where_clause = input.parse()?;
        let content;
        braced!(content in input);
        let inner_attrs = Attribute::parse_inner(&content)?;
        let mut items = Vec::new();
        while !content.is_empty() {
            items.push(content.parse()?);
        }
        Ok(Self {
            attrs,
            unsafety,
            impl_token,
            generics,
            of_trait,
            self_ty,
            where_clause,
            inner_attrs,
            items,
        })
    }
}

impl Parse for Item {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let ahead = input.fork();
        if let Ok(function) = ahead.parse() {
            input.advance_to(&ahead);
            return Ok(Self::Function(Box::new(function)));
        }
        let other: ImplItem = input.parse()?;
        Ok(Self::Other(other.into_token_stream()))
    }
}

impl Parse for Function {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let attrs = Attribute::parse_outer(input)?;
        let vis = input.parse()?;
        let sig = input.parse()?;
        let TokenTree::Group(body) = input.parse()? else {
            return Err(input.error("expected the body of a function"));
        };
        // A body that came through a `macro_rules!` fragment has invisible delimiters.
        if !matches!(body.delimiter(), Delimiter::Brace | Delimiter::None) {
            return Err(Error::new(body.span(), "expected the body of a function"));
        }
        let (markers, attrs) = attrs.into_iter().partition(is_marker);
        Ok(Self { attrs, markers, vis, sig, body })
    }
}

impl ToTokens for Block {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        let Self { attrs, unsafety, impl_token, generics, self_ty, where_clause, .. } = self;
        let of_trait =
            self.of_trait.as_ref().map(|(of_trait, for_token)| quote!(#of_trait #for_token));
        let (inner_attrs, items, marks) = (&self.inner_attrs, &self.items, self.marks());
        tokens.extend(quote! {
            #(#attrs)*
            #unsafety #impl_token #generics #of_trait #self_ty #where_clause {
                #(#inner_attrs)*
                #(#items)*
            }
            #marks
        });
    }
}

impl ToTokens for Item {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        match self {
            Self::Function(function) => function.to_tokens(tokens),
            Self::Other(other) => tokens.extend(other.clone()),
        }
    }
}

impl ToTokens for Function {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        tokens.append_all(&self.attrs);
        self.vis.to_tokens(tokens);
        self.sig.to_tokens(tokens);
        self.body.to_tokens(tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m3_a_block_comes_out_as_it_went_in_but_for_the_markers() {
        let body = quote! {
            #![allow(dead_code)]
            const N: u32 = 3;
            type Own = Player;
            /// Text.
            #[inline]
            pub fn a(&self, (x, _): (u32, u32)) -> Result<u32> where Self: Sized { own!{ x.await? } }
            pub(crate) const fn b() -> u32 { Self::N }
            helpers! { some }
        };
        let before = quote!(#[cfg(unix)] impl Player { #body #[epicserver::exclusive] async fn c(&mut self) {} });
        let after = quote! {
            #[cfg(unix)] impl Player { #body async fn c(&mut self) {} }
            #[cfg(unix)] #[epicserver::exclusive(seen_by_entity)] const _: () = ();
        };
        let block: Block = syn::parse2(before).unwrap();
        assert_eq!(block.to_token_stream().to_string(), after.to_string());
        assert_eq!(block.functions().count(), 3);
    }
}
