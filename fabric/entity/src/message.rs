//! Messages: what arguments, replies and errors have to be.
//!
//! # Invariants
//! - **M1** `crossed` reaches every [`CallError`] inside a message, so that none that arrives with
//!   a reply says that the handler did not run.
//!
//! # Not here
//! The bytes: only the codec knows them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use epicserver_wire::frame::Part;
use epicserver_wire::rkyv::{Archive, Deserialize, Serialize};
use epicserver_wire::view::{Reader, View};
use epicserver_wire::{CallError, Codec, Malformed, Rkyv, Serializer, uuid::Uuid};

use crate::form::Form;

/// A value that the codec can write and read. Implemented for whatever it supports.
///
/// What the codec asks is a supertrait, so that a type it does not know gets one error, not two.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be sent or saved",
    note = "put `#[message]` on its definition, so that it can be written and read"
)]
pub trait Coded: Sized + Archive + for<'a> Serialize<Serializer<'a>> {
    /// The bytes of the value.
    ///
    /// # Errors
    /// [`Malformed`] if a hand-written implementation refuses to be written.
    fn encode(&self) -> Result<Vec<u8>, Malformed>;

    /// The value of `bytes`, which may come from anywhere.
    ///
    /// # Errors
    /// [`Malformed`] if they are not those of such a value.
    fn decode(bytes: &[u8]) -> Result<Self, Malformed>;

    /// The same for bytes that lie in a frame, of which views in the value keep a share.
    ///
    /// # Errors
    /// [`Malformed`] if they are not those of such a value.
    fn decode_in(part: Part<'_>) -> Result<Self, Malformed>;
}

impl<T> Coded for T
where
    T: Archive + for<'a> Serialize<Serializer<'a>>,
    Rkyv: Codec<T>,
{
    fn encode(&self) -> Result<Vec<u8>, Malformed> {
        <Rkyv as Codec<T>>::encode(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        <Rkyv as Codec<T>>::decode(bytes)
    }

    fn decode_in(part: Part<'_>) -> Result<Self, Malformed> {
        <Rkyv as Codec<T>>::decode_in(part)
    }
}

/// A value that goes from one entity to another: an argument, a reply, or an error in one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument, a reply or an error of a method",
    note = "put `#[message]` on its definition; owned standard types, `Ref<T>` and tuples are messages already"
)]
pub trait Message: Coded + Send + 'static {
    /// Called when the value is handed to a caller as a reply: each error inside is turned into
    /// one whose handler ran (I5). `#[message]` writes it.
    fn crossed(&mut self) {}

    /// Writes what its bytes are made of. Nodes with different forms of a method do not call each other
    /// by it; a type that does not say is taken on trust. `#[message]` writes it.
    fn form(form: &mut Form) {
        form.unknown();
    }
}

macro_rules! plain_messages {
    ($($plain:ty),* $(,)?) => {$(
        impl Message for $plain {
            fn form(form: &mut Form) {
                form.word(stringify!($plain));
            }
        }
    )*};
}

plain_messages!(
    (),
    bool,
    char,
    u8,
    u16,
    u32,
    u64,
    u128,
    i8,
    i16,
    i32,
    i64,
    i128,
    f32,
    f64,
    String,
    Duration,
    Uuid,
);

impl Message for CallError {
    fn crossed(&mut self) {
        *self = (*self).crossed();
    }

    fn form(form: &mut Form) {
        form.word("CallError");
    }
}

impl<T: Message> Message for Option<T>
where
    Self: Coded,
{
    fn crossed(&mut self) {
        if let Some(inner) = self {
            inner.crossed();
        }
    }

    fn form(form: &mut Form) {
        form.of("Option", &[T::form]);
    }
}

impl<T: Message, E: Message> Message for Result<T, E>
where
    Self: Coded,
{
    fn crossed(&mut self) {
        match self {
            Ok(value) => value.crossed(),
            Err(error) => error.crossed(),
        }
    }

    fn form(form: &mut Form) {
        form.of("Result", &[T::form, E::form]);
    }
}

impl<T: Message> Message for View<T>
where
    Self: Coded,
    T::Archived: for<'a> Deserialize<T, Reader<'a>>,
{
    fn crossed(&mut self) {
        // What cannot be read holds no error that anybody could see.
        if let Ok(value) = self.value_mut() {
            value.crossed();
        }
    }

    fn form(form: &mut Form) {
        T::form(form);
    }
}

macro_rules! sequences {
    ($($sequence:ty: $name:literal),*) => {$(
        impl<T: Message> Message for $sequence
        where
            Self: Coded,
        {
            fn crossed(&mut self) {
                self.iter_mut().for_each(Message::crossed);
            }

            fn form(form: &mut Form) {
                form.of($name, &[T::form]);
            }
        }
    )*};
}

sequences!(Vec<T>: "Vec", VecDeque<T>: "VecDeque", Box<[T]>: "Slice");

impl<T: Message, const N: usize> Message for [T; N]
where
    Self: Coded,
{
    fn crossed(&mut self) {
        self.iter_mut().for_each(Message::crossed);
    }

    fn form(form: &mut Form) {
        form.word("[");
        T::form(form);
        form.word(&format!(";{N}]"));
    }
}

impl<T: Message> Message for Box<T>
where
    Self: Coded,
{
    fn crossed(&mut self) {
        self.as_mut().crossed();
    }

    fn form(form: &mut Form) {
        form.of("Box", &[T::form]);
    }
}

impl<K: Message + Ord, V: Message> Message for BTreeMap<K, V>
where
    Self: Coded,
{
    fn crossed(&mut self) {
        self.values_mut().for_each(Message::crossed);
    }

    fn form(form: &mut Form) {
        form.of("BTreeMap", &[K::form, V::form]);
    }
}

impl<K: Message + Ord> Message for BTreeSet<K>
where
    Self: Coded,
{
    fn form(form: &mut Form) {
        form.of("BTreeSet", &[K::form]);
    }
}

macro_rules! tuples {
    ($($name:ident . $index:tt),*) => {
        impl<$($name: Message),*> Message for ($($name,)*)
        where
            Self: Coded,
        {
            fn crossed(&mut self) {
                $(self.$index.crossed();)*
            }

            fn form(form: &mut Form) {
                form.word("(");
                $(
                    $name::form(form);
                    form.word(",");
                )*
                form.word(")");
            }
        }
    };
}

tuples!(A.0);
tuples!(A.0, B.1);
tuples!(A.0, B.1, C.2);
tuples!(A.0, B.1, C.2, D.3);
tuples!(A.0, B.1, C.2, D.3, E.4);
tuples!(A.0, B.1, C.2, D.3, E.4, F.5);
tuples!(A.0, B.1, C.2, D.3, E.4, F.5, G.6);
tuples!(A.0, B.1, C.2, D.3, E.4, F.5, G.6, H.7);

#[cfg(test)]
mod tests {
    use super::*;
    use epicserver_wire::{ChainId, ErrorKind, Ran};

    #[test]
    fn i5_crossing_reaches_errors_inside_containers() {
        let refused = CallError::refused(ErrorKind::Overloaded, ChainId::NONE);
        let mut reply: Result<Vec<Option<CallError>>, CallError> = Ok(vec![None, Some(refused)]);
        reply.crossed();
        assert_eq!(reply.unwrap()[1].unwrap().ran(), Ran::Yes);
    }
}
