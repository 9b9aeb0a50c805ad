//! `#[message]`: what goes from one entity to another.
//!
//! # Invariants
//! - **I5** The `crossed` that is written here visits every field.
//! - **M6** A field that is no message is refused by `crossed` alone, so that there is one error.
//!
//! # Not here
//! Which standard types are messages.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::parse::ParseStream;
use syn::spanned::Spanned;
use syn::{
    Data, DataEnum, DeriveInput, Error, Field, Fields, GenericParam, Ident, Member, Path, Result,
    Variant, WhereClause, parse_quote,
};

use crate::options::{Attribute, Errors, default_home, home, serde_derives};
use crate::stored;
use crate::types::{attributes_called, mentions, shown};

const MESSAGE: Attribute = Attribute { name: "message", options: &["serde", "crate"] };

/// Expands `#[message]` on `item`.
pub(crate) fn expand(options: TokenStream, item: DeriveInput) -> TokenStream {
    let mut errors = Errors::default();
    let mut path = default_home();
    let mut serde = None;
    let set = |name: &Ident, input: ParseStream<'_>| {
        if name == "crate" {
            path = home(name, input)?;
        } else {
            serde = Some(name.span());
        }
        Ok(())
    };
    MESSAGE.read(options, &mut errors, set);
    if errors.keep(check(&item)).is_none() {
        return quote!(#item #errors);
    }
    let serde = serde_derives(serde, &path, &mut errors);
    let message = message(&item, &path);
    let item = stored::with_derives(item, &path, &serde);
    quote!(#item #message #errors)
}

fn check(item: &DeriveInput) -> Result<()> {
    stored::check("message", item)?;
    if let Some(lifetime) = item.generics.lifetimes().next() {
        let text = "a message owns what it carries, since it travels: write `String` for `&str`, `Vec<T>` for `&[T]`";
        return Err(Error::new_spanned(lifetime, text));
    }
    if stored::is_recursive(item) && item.generics.type_params().next().is_some() {
        let text = "a message that holds values of its own type cannot be generic: write a type for each case";
        return Err(Error::new_spanned(&item.generics, text));
    }
    let conditional = |field: &&&Field| {
        field.ident.is_none() && !attributes_called(&field.attrs, &["cfg"]).is_empty()
    };
    if let Some(field) = stored::fields(item).iter().find(conditional) {
        let text = "a field without a name cannot be conditional: give the fields names";
        return Err(Error::new_spanned(field, text));
    }
    Ok(())
}

fn message(item: &DeriveInput, home: &Path) -> TokenStream {
    let ident = &item.ident;
    let cfgs = attributes_called(&item.attrs, &["cfg"]);
    let (parameters, arguments, _) = item.generics.split_for_impl();
    let bounds = bounds(item, home);
    let crossed = crossed(item, home);
    let form = form(item, home);
    quote! {
        #(#cfgs)*
        #[automatically_derived]
        impl #parameters #home::Message for #ident #arguments #bounds {
            #crossed
            #form
        }
    }
}

/// What makes a generic message one: its parameters, its fields, and it itself for the codec.
fn bounds(item: &DeriveInput, home: &Path) -> Option<WhereClause> {
    let mut clause = item.generics.where_clause.clone();
    let names: Vec<String> =
        item.generics.type_params().map(|parameter| parameter.ident.unraw().to_string()).collect();
    if names.is_empty() {
        return clause;
    }
    let predicates = &mut clause.get_or_insert_with(|| parse_quote!(where)).predicates;
    for parameter in &item.generics.params {
        if let GenericParam::Type(parameter) = parameter {
            let name = &parameter.ident;
            predicates.push(parse_quote!(#name: #home::Message));
        }
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for field in stored::fields(item) {
        if is_crossed(field) && mentions(&field.ty, &names) {
            let ty = &field.ty;
            predicates.push(parse_quote!(#ty: #home::Message));
        }
    }
    predicates.push(parse_quote!(Self: #home::Coded));
    clause
}

/// A field that is written in another form need not be a message.
fn is_crossed(field: &Field) -> bool {
    !stored::rkyv_attribute_says(&field.attrs, "with")
}

fn crossed(item: &DeriveInput, home: &Path) -> Option<TokenStream> {
    if !stored::fields(item).iter().any(|field| is_crossed(field)) {
        return None;
    }
    let body = match &item.data {
        Data::Struct(data) => {
            let visit = |(field, member): (&Field, Member)| {
                let cfgs = attributes_called(&field.attrs, &["cfg"]);
                let call = call(field, home, &quote!(&mut self.#member));
                quote!(#(#cfgs)* #call)
            };
            let visited = data.fields.iter().zip(data.fields.members());
            visited.filter(|(field, _)| is_crossed(field)).map(visit).collect()
        }
        Data::Enum(data) => crossed_enum(data, home),
        Data::Union(_) => TokenStream::new(),
    };
    Some(quote! {
        fn crossed(&mut self) {
            #body
        }
    })
}

fn crossed_enum(data: &DataEnum, home: &Path) -> TokenStream {
    let arms = data.variants.iter().map(|variant| arm(variant, home));
    quote!(match self { #(#arms)* })
}

fn arm(variant: &Variant, home: &Path) -> TokenStream {
    let cfgs = attributes_called(&variant.attrs, &["cfg"]);
    let ident = &variant.ident;
    let mut bindings = TokenStream::new();
    let mut calls = TokenStream::new();
    for (index, (field, member)) in variant.fields.iter().zip(variant.fields.members()).enumerate()
    {
        if !is_crossed(field) {
            continue;
        }
        let cfgs = attributes_called(&field.attrs, &["cfg"]);
        let binding = format_ident!("field{index}");
        let call = call(field, home, &quote!(#binding));
        bindings.extend(quote!(#(#cfgs)* #member: #binding,));
        calls.extend(quote!(#(#cfgs)* #call));
    }
    quote!(#(#cfgs)* Self::#ident { #bindings .. } => { #calls })
}

/// Errors in it are shown at the type of the field.
fn call(field: &Field, home: &Path, place: &TokenStream) -> TokenStream {
    let span = field.ty.span().resolved_at(Span::call_site());
    let crossed = quote_spanned!(span=> #home::Message::crossed);
    quote_spanned!(span=> #crossed(#place);)
}

/// What the bytes of a message are made of: its fields in order, or those of each variant.
pub(crate) fn form(item: &DeriveInput, home: &Path) -> TokenStream {
    let name = item.ident.unraw().to_string();
    let parts = match &item.data {
        Data::Struct(data) => form_fields(&data.fields, home),
        Data::Enum(data) => {
            let variants = data.variants.iter().map(|variant| {
                let cfgs = attributes_called(&variant.attrs, &["cfg"]);
                let name = variant.ident.unraw().to_string();
                let fields = form_fields(&variant.fields, home);
                quote!(#(#cfgs)* { form.word(#name); form.word("{"); #fields form.word("},"); })
            });
            quote!(#(#variants)*)
        }
        Data::Union(_) => TokenStream::new(),
    };
    quote! {
        fn form(form: &mut #home::Form) {
            #[allow(unused_imports)]
            use #home::UnknownPart as _;
            #[allow(unused_variables)]
            form.named::<Self>(#name, |form| {
                #parts
            });
        }
    }
}

fn form_fields(fields: &Fields, home: &Path) -> TokenStream {
    let kept = fields.iter().zip(fields.members()).filter(|(field, _)| !stored::is_unsaved(field));
    let parts = kept.map(|(field, member)| {
        let cfgs = attributes_called(&field.attrs, &["cfg"]);
        let name = match &member {
            Member::Named(name) => name.unraw().to_string(),
            Member::Unnamed(index) => index.index.to_string(),
        };
        let ty = &field.ty;
        if is_crossed(field) {
            return quote!(#(#cfgs)* #home::Part::<#ty>::new().write(form, #name););
        }
        let attributes = attributes_called(&field.attrs, &["rkyv"]);
        let text = shown(&quote!(#(#attributes)* #ty));
        quote!(#(#cfgs)* form.foreign(#name, #text);)
    });
    quote!(#(#parts)*)
}
