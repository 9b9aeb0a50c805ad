//! Forms: what the bytes of arguments and replies are made of, so that two nodes can compare it.
//!
//! A form is a text such as `(u32,Picture{width:u32,pixels:Vec<u8>})`. A type that is named a second
//! time is written by its number, which also ends recursion.
//!
//! # Invariants
//! - **E7** Two types whose bytes are made differently have different forms, unless one of them is
//!   [unknown](Form::unknown).
//!
//! # Not here
//! What follows from a difference: that is the node's.

use std::any::TypeId;
use std::marker::PhantomData;

use epicserver_wire::form_hash;

use crate::message::Message;

/// The form of a type, as it is being written.
#[derive(Debug, Default)]
pub struct Form {
    text: String,
    named: Vec<TypeId>,
    /// The names of types are left out.
    bare: bool,
}

impl Form {
    /// The hash of what a method takes and gives.
    #[must_use]
    pub fn of_method<A: Message, R: Message>() -> u64 {
        let mut form = Self::default();
        A::form(&mut form);
        form.word("->");
        R::form(&mut form);
        form_hash(&form.text)
    }

    /// The form of `T`, to be read.
    #[must_use]
    pub fn text_of<T: Message>() -> String {
        let mut form = Self::default();
        T::form(&mut form);
        form.text
    }

    /// The form that `write` writes, without the names of types: those are no part of what is stored, and a program that
    /// keeps what its types were before has to call them otherwise.
    pub(crate) fn bare_by(write: fn(&mut Self)) -> String {
        let mut form = Self { bare: true, ..Self::default() };
        write(&mut form);
        form.text
    }

    /// A word: the name of a simple type, or a mark between parts.
    pub fn word(&mut self, word: &str) {
        self.text.push_str(word);
    }

    /// A type that does not say what it is made of: it counts as equal to itself under every version.
    pub fn unknown(&mut self) {
        self.word("?");
    }

    /// The type `T` with its parts, which `parts` writes.
    pub fn named<T: 'static>(&mut self, name: &str, parts: impl FnOnce(&mut Self)) {
        let id = TypeId::of::<T>();
        if let Some(number) = self.named.iter().position(|named| *named == id) {
            self.word(&format!("#{number}"));
            return;
        }
        self.named.push(id);
        if !self.bare {
            self.word(name);
        }
        self.word("{");
        parts(self);
        self.word("}");
    }

    /// A part that is written in a form of the user's own, called `form`.
    pub fn foreign(&mut self, name: &str, form: &str) {
        self.word(name);
        self.word("=");
        self.word(form);
        self.word(",");
    }

    /// A container called `name` of others, each written by one of `parts`.
    pub fn of(&mut self, name: &str, parts: &[fn(&mut Self)]) {
        self.word(name);
        self.word("<");
        for part in parts {
            part(self);
            self.word(",");
        }
        self.word(">");
    }
}

/// A field of type `T`. Generated code writes it without knowing whether `T` is a message: what is none is
/// refused elsewhere.
#[derive(Debug)]
pub struct Part<T>(PhantomData<fn() -> T>);

impl<T> Part<T> {
    /// The field.
    #[must_use]
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T> Default for Part<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Message> Part<T> {
    /// Writes the field called `name`.
    pub fn write(self, form: &mut Form, name: &str) {
        form.word(name);
        form.word(":");
        T::form(form);
        form.word(",");
    }
}

/// What is written of a field that is no message.
pub trait UnknownPart: Sized {
    /// Writes the field called `name`.
    fn write(self, form: &mut Form, name: &str) {
        form.foreign(name, "?");
    }
}

impl<T> UnknownPart for Part<T> {}

#[cfg(test)]
mod tests {
    use super::*;
    use epicserver_wire::view::View;

    #[test]
    fn forms_are_written_as_they_are_pinned() {
        type Sample = (u32, Vec<Option<String>>, [u8; 4], Result<(), Box<i8>>);
        let text = Form::text_of::<Sample>();
        assert_eq!(text, "(u32,Vec<Option<String,>,>,[u8;4],Result<(),Box<i8,>,>,)");
    }

    #[test]
    fn a_view_has_the_form_of_its_value() {
        assert_eq!(Form::text_of::<View<Vec<u8>>>(), Form::text_of::<Vec<u8>>());
    }

    #[test]
    fn e7_what_is_made_differently_has_another_form() {
        let forms = [
            Form::of_method::<(u32,), ()>(),
            Form::of_method::<(u64,), ()>(),
            Form::of_method::<(), (u32,)>(),
            Form::of_method::<((u32,),), ()>(),
            Form::of_method::<(Vec<u32>,), ()>(),
        ];
        for (at, form) in forms.iter().enumerate() {
            assert!(!forms[..at].contains(form), "form {at}");
        }
    }
}
