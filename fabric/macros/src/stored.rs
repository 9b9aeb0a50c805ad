//! What entities and messages have in common: a type that the codec writes and reads.
//!
//! # Invariants
//! - **M2** The type stays as it was written; only `Self` in its fields becomes its name, since the
//!   codec's derives copy the fields into types of their own.
//!
//! # Not here
//! What else entities and messages are.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{Attribute, Data, DeriveInput, Error, Field, Path, Result, parse_quote};

use crate::types::{attributes_called, mentions, without_self};

/// Every field of the type.
pub(crate) fn fields(item: &DeriveInput) -> Vec<&Field> {
    match &item.data {
        Data::Struct(data) => data.fields.iter().collect(),
        Data::Enum(data) => data.variants.iter().flat_map(|variant| &variant.fields).collect(),
        Data::Union(data) => data.fields.named.iter().collect(),
    }
}

fn fields_mut(item: &mut DeriveInput) -> Vec<&mut Field> {
    match &mut item.data {
        Data::Struct(data) => data.fields.iter_mut().collect(),
        Data::Enum(data) => {
            data.variants.iter_mut().flat_map(|variant| &mut variant.fields).collect()
        }
        Data::Union(data) => data.fields.named.iter_mut().collect(),
    }
}

/// Refuses what cannot be written and read as it is.
pub(crate) fn check(attribute: &str, item: &DeriveInput) -> Result<()> {
    match &item.data {
        Data::Union(data) => {
            let text = format!("`#[{attribute}]` does not go on a union: write an enum");
            Err(Error::new_spanned(data.union_token, text))
        }
        Data::Enum(data) if data.variants.is_empty() => {
            let text = "an enum without variants has no values that could be written: give it one";
            Err(Error::new_spanned(&item.ident, text))
        }
        Data::Enum(_) | Data::Struct(_) => Ok(()),
    }
}

/// Whether a field holds values of its own type.
pub(crate) fn is_recursive(item: &DeriveInput) -> bool {
    let own = item.ident.to_string();
    fields(item).iter().any(|field| mentions(&field.ty, &["Self", &own]) || omits_bounds(field))
}

/// Whether the user wrote `#[rkyv(omit_bounds)]`: types that hold each other.
fn omits_bounds(field: &Field) -> bool {
    rkyv_attribute_says(&field.attrs, "omit_bounds")
}

/// Whether an attribute `#[rkyv(…)]` says `word`.
pub(crate) fn rkyv_attribute_says(attrs: &[Attribute], word: &str) -> bool {
    let says = |attr: &Attribute| {
        attr.path().is_ident("rkyv") && attr.meta.to_token_stream().to_string().contains(word)
    };
    attrs.iter().any(says)
}

/// Whether the field is no part of what is stored.
pub(crate) fn is_unsaved(field: &Field) -> bool {
    !attributes_called(&field.attrs, &["unsaved"]).is_empty()
}

/// The item with the derives of the codec, found in `home`, and those of `serde`.
pub(crate) fn with_derives(item: DeriveInput, home: &Path, serde: &TokenStream) -> TokenStream {
    let bounds = recursion_bounds(&item, home);
    let item = adapted(item, home, !serde.is_empty());
    quote! {
        #[derive(#home::rkyv::Archive, #home::rkyv::Serialize, #home::rkyv::Deserialize)]
        #[rkyv(crate = #home::rkyv)]
        #bounds
        #serde
        #item
    }
}

/// The item with `Self` resolved in its fields, and the recursive ones marked.
fn adapted(mut item: DeriveInput, home: &Path, serde: bool) -> DeriveInput {
    let own = item.ident.to_string();
    let ident = &item.ident;
    let (_, arguments, _) = item.generics.split_for_impl();
    let resolved = quote!(#ident #arguments);
    for field in fields_mut(&mut item) {
        if is_unsaved(field) {
            field.attrs.retain(|attr| !attr.path().is_ident("unsaved"));
            field.attrs.push(parse_quote!(#[rkyv(with = #home::rkyv::with::Skip)]));
            if serde {
                field.attrs.push(parse_quote!(#[serde(skip)]));
            }
            continue;
        }
        if mentions(&field.ty, &["Self", &own]) && !omits_bounds(field) {
            field.attrs.push(parse_quote!(#[rkyv(omit_bounds)]));
        }
        let ty = without_self(&field.ty, &resolved);
        field.ty = syn::Type::Verbatim(ty);
    }
    item
}

/// A recursive type omits the bounds of its recursive fields (they would hold if they held), so
/// what containers ask of (de)serialisers and validators has to be said by hand.
fn recursion_bounds(item: &DeriveInput, home: &Path) -> TokenStream {
    if !is_recursive(item) || rkyv_attribute_says(&item.attrs, "_bounds") {
        return TokenStream::new();
    }
    quote! {
        #[rkyv(
            serialize_bounds(
                __S: #home::rkyv::ser::Writer + #home::rkyv::ser::Allocator,
                __S::Error: #home::rkyv::rancor::Source,
            ),
            deserialize_bounds(__D::Error: #home::rkyv::rancor::Source),
            bytecheck(bounds(
                __C: #home::rkyv::validation::ArchiveContext,
                __C::Error: #home::rkyv::rancor::Source,
            )),
        )]
    }
}
