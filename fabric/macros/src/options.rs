//! The options of an attribute: `name`, `name = value`, `name(list)`, separated by commas.
//!
//! # Invariants
//! - **M1** One wrong option is one error, and the others still count, so that nothing else is
//!   reported in its wake.
//!
//! # Not here
//! What an option means.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream, Parser};
use syn::{Error, Ident, Path, Result, Token};

/// The errors that were found so far.
#[derive(Default)]
pub(crate) struct Errors(Option<Error>);

impl Errors {
    pub(crate) fn push(&mut self, error: Error) {
        match &mut self.0 {
            Some(errors) => errors.combine(error),
            None => self.0 = Some(error),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The value, or `None` and one error more.
    pub(crate) fn keep<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.push(error)).ok()
    }
}

impl ToTokens for Errors {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        if let Some(errors) = &self.0 {
            tokens.extend(errors.to_compile_error());
        }
    }
}

/// An attribute and the names of its options.
pub(crate) struct Attribute {
    /// As users write it, without brackets.
    pub(crate) name: &'static str,
    /// Every option that it takes.
    pub(crate) options: &'static [&'static str],
}

impl Attribute {
    /// Calls `each` for every option in `options`; it reads the option's value, if it has one.
    pub(crate) fn read(
        &self,
        options: TokenStream,
        errors: &mut Errors,
        mut each: impl FnMut(&Ident, ParseStream<'_>) -> Result<()>,
    ) {
        let mut seen: Vec<Ident> = Vec::new();
        let reader = |input: ParseStream<'_>| {
            while !input.is_empty() {
                let name = Ident::parse_any(input)?;
                let result = match self.check(&name, &seen) {
                    Ok(()) => each(&name, input),
                    Err(error) => Err(error),
                };
                seen.push(name);
                if errors.keep(result).is_none() {
                    skip_to_comma(input)?;
                }
                if !input.is_empty() {
                    input.parse::<Token![,]>()?;
                }
            }
            Ok(())
        };
        let result = reader.parse2(options);
        errors.keep(result);
    }

    fn check(&self, name: &Ident, seen: &[Ident]) -> Result<()> {
        if seen.contains(name) {
            return Err(Error::new_spanned(name, format!("`{name}` is given twice")));
        }
        let text = name.to_string();
        if self.options.contains(&text.as_str()) {
            return Ok(());
        }
        let advice = advice(&text, self.options);
        let attribute = self.name;
        Err(Error::new_spanned(name, format!("`#[{attribute}]` has no option `{text}`: {advice}")))
    }
}

fn skip_to_comma(input: ParseStream<'_>) -> Result<()> {
    while !input.is_empty() && !input.peek(Token![,]) {
        input.parse::<TokenTree>()?;
    }
    Ok(())
}

/// `= value`.
pub(crate) fn value<T: Parse>(name: &Ident, input: ParseStream<'_>) -> Result<T> {
    if !input.peek(Token![=]) {
        return Err(Error::new_spanned(
            name,
            format!("`{name}` needs a value: write `{name} = …`"),
        ));
    }
    input.parse::<Token![=]>()?;
    input.parse()
}

/// Where generated code finds what it uses: the hidden module of the façade, unless `crate = …`
/// names another one.
pub(crate) fn default_home() -> Path {
    syn::parse_quote!(::epicserver::__private)
}

/// The value of `crate = …`.
pub(crate) fn home(name: &Ident, input: ParseStream<'_>) -> Result<Path> {
    value::<Home>(name, input).map(|home| home.0)
}

struct Home(Path);

impl Parse for Home {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        Path::parse_mod_style(input).map(Self)
    }
}

/// The derives that `serde` asks for.
pub(crate) fn serde_derives(wanted: Option<Span>, home: &Path, errors: &mut Errors) -> TokenStream {
    let Some(span) = wanted else { return TokenStream::new() };
    if !cfg!(feature = "serde") {
        let text = "`serde` needs the feature of that name: write `epicserver = { version = \"…\", features = [\"serde\"] }` in `Cargo.toml`";
        errors.push(Error::new(span, text));
        return TokenStream::new();
    }
    let path = quote!(#home::serde).to_string().replace(' ', "");
    quote! {
        #[derive(#home::serde::Serialize, #home::serde::Deserialize)]
        #[serde(crate = #path)]
    }
}

/// "`a`, `b` and `c`".
pub(crate) fn list(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, first)) => format!("{} and {last}", first.join(", ")),
        None => "none".to_owned(),
    }
}

/// What to write in place of `wrong`, which is none of `names`.
pub(crate) fn advice(wrong: &str, names: &[&str]) -> String {
    match nearest(wrong, names) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("it takes {}", list(names)),
    }
}

/// The name that `wrong` is probably a slip of.
fn nearest<'a>(wrong: &str, names: &[&'a str]) -> Option<&'a str> {
    let distances = names.iter().map(|name| (distance(wrong, name), *name));
    let (distance, name) = distances.min()?;
    (distance <= 1 + name.len() / 3).then_some(name)
}

/// How many letters have to be changed, added or left out to make `a` into `b` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: &[&str] = &["key", "name", "class", "group", "idle", "crate", "serde"];

    #[test]
    fn a_slip_is_told_from_something_else() {
        assert_eq!(nearest("keys", OPTIONS), Some("key"));
        assert_eq!(nearest("clas", OPTIONS), Some("class"));
        assert_eq!(nearest("saved_as", OPTIONS), None);
    }

    #[test]
    fn lists_read_as_sentences() {
        assert_eq!(list(&["a"]), "`a`");
        assert_eq!(list(&["a", "b", "c"]), "`a`, `b` and `c`");
    }

    #[test]
    fn m1_options_after_a_wrong_one_still_count() {
        let attribute = Attribute { name: "entity", options: OPTIONS };
        let mut errors = Errors::default();
        let mut names = Vec::new();
        let options = quote!(key = u8, clas = "x", name = "N");
        attribute.read(options, &mut errors, |name, input| {
            names.push(name.to_string());
            value::<TokenTree>(name, input).map(drop)
        });
        assert_eq!(names, ["key", "name"]);
        assert_eq!(errors.0.into_iter().flatten().count(), 1);
    }
}
