//! Questions about types as they are written.
//!
//! # Not here
//! What a name stands for: macros see text, not meaning.

use proc_macro2::{Group, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::visit::{self, Visit};
use syn::{Attribute, Lifetime, PathSegment, Type, TypeImplTrait, TypeReference};

/// The last segment of a path: `Result<u32>` of `epicserver::Result<u32>`.
pub(crate) fn last_segment(ty: &Type) -> Option<&PathSegment> {
    if let Type::Group(group) = ty {
        return last_segment(&group.elem);
    }
    let Type::Path(path) = ty else { return None };
    path.path.segments.last()
}

/// Whether the last segment of the path is called `name`.
pub(crate) fn is_named(ty: &Type, name: &str) -> bool {
    last_segment(ty).is_some_and(|segment| segment.ident == name)
}

/// `tokens` with `own` in place of each `Self`, for use outside of the `impl`.
pub(crate) fn without_self(tokens: impl ToTokens, own: &TokenStream) -> TokenStream {
    tokens.into_token_stream().into_iter().flat_map(|token| replaced(token, own)).collect()
}

fn replaced(token: TokenTree, own: &TokenStream) -> TokenStream {
    if let TokenTree::Group(group) = token {
        let mut inner = Group::new(group.delimiter(), without_self(group.stream(), own));
        inner.set_span(group.span());
        return TokenTree::Group(inner).into();
    }
    if !matches!(&token, TokenTree::Ident(ident) if ident == "Self") {
        return token.into();
    }
    // At the place of `Self`, but not as if the user had written it: lints would ask for `Self`.
    let span = token.span().resolved_at(Span::call_site());
    let at_span = |mut own: TokenTree| {
        own.set_span(span);
        own
    };
    own.clone().into_iter().map(at_span).collect()
}

/// Code as a user would write it.
pub(crate) fn shown(tokens: &impl ToTokens) -> String {
    let mut text = tokens.to_token_stream().to_string();
    for (from, to) in [
        (" :: ", "::"),
        (":: ", "::"),
        (" <", "<"),
        ("< ", "<"),
        (" >", ">"),
        (" ,", ","),
        ("& ", "&"),
        (" ;", ";"),
    ] {
        text = text.replace(from, to);
    }
    text
}

/// Why a type cannot be part of a call.
pub(crate) enum Unfit<'a> {
    /// `&T`.
    Reference(&'a TypeReference),
    /// `T<'a>`.
    Lifetime(&'a Lifetime),
    /// `impl Trait`.
    ImplTrait(&'a TypeImplTrait),
}

/// The first part of `ty` that cannot be part of a call.
pub(crate) fn unfit(ty: &Type) -> Option<Unfit<'_>> {
    let mut search = Search { found: None };
    search.visit_type(ty);
    search.found
}

struct Search<'a> {
    found: Option<Unfit<'a>>,
}

impl<'a> Visit<'a> for Search<'a> {
    fn visit_type_reference(&mut self, reference: &'a TypeReference) {
        self.found.get_or_insert(Unfit::Reference(reference));
    }

    fn visit_lifetime(&mut self, lifetime: &'a Lifetime) {
        self.found.get_or_insert(Unfit::Lifetime(lifetime));
    }

    fn visit_type_impl_trait(&mut self, it: &'a TypeImplTrait) {
        self.found.get_or_insert(Unfit::ImplTrait(it));
    }
}

/// What to write in place of a reference.
pub(crate) fn owned(reference: &TypeReference) -> String {
    let elem = &*reference.elem;
    if let Type::Slice(slice) = elem {
        let element = &slice.elem;
        return shown(&quote!(Vec<#element>));
    }
    if is_named(elem, "str") { "String".to_owned() } else { shown(elem) }
}

/// Whether a type names one of `names` other than behind a `Ref`, which holds only the id.
pub(crate) fn mentions(ty: &Type, names: &[&str]) -> bool {
    let mut search = Mention { names, found: false };
    search.visit_type(ty);
    search.found
}

struct Mention<'a> {
    names: &'a [&'a str],
    found: bool,
}

impl Visit<'_> for Mention<'_> {
    fn visit_path_segment(&mut self, segment: &PathSegment) {
        if segment.ident == "Ref" {
            return;
        }
        self.found |= self.names.iter().any(|name| segment.ident == name);
        visit::visit_path_segment(self, segment);
    }
}

/// The attributes of `attrs` called one of `names`.
pub(crate) fn attributes_called(attrs: &[Attribute], names: &[&str]) -> Vec<Attribute> {
    let called = |attr: &&Attribute| names.iter().any(|name| attr.path().is_ident(name));
    attrs.iter().filter(called).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use syn::parse_quote;

    #[test]
    fn self_becomes_the_type_wherever_it_stands() {
        let ty: Type = parse_quote!(Vec<(Ref<Self>, [u8; Self::N])>);
        let own = quote!(game::Player);
        let replaced = shown(&without_self(&ty, &own));
        assert_eq!(replaced, "Vec<(Ref<game::Player>, [u8; game::Player::N])>");
    }

    #[test]
    fn a_reference_to_itself_is_no_recursion() {
        let mentions = |ty: Type| mentions(&ty, &["Self", "Player"]);
        assert!(!mentions(parse_quote!(Vec<Ref<Self>>)));
        assert!(!mentions(parse_quote!(Option<epicserver::Ref<Player>>)));
        assert!(mentions(parse_quote!(BTreeMap<u32, Box<Player>>)));
        assert!(mentions(parse_quote!((u32, [Self; 3]))));
    }

    #[test]
    fn advice_for_references_is_what_owns_the_same() {
        let owned = |reference: TypeReference| owned(&reference);
        assert_eq!(owned(parse_quote!(&str)), "String");
        assert_eq!(owned(parse_quote!(&mut [Ref<Barrel>])), "Vec<Ref<Barrel>>");
        assert_eq!(owned(parse_quote!(&'static Item)), "Item");
    }
}
